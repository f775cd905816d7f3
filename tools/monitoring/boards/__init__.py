"""All dashboards."""

from tools.monitoring.boards.autoscaler import AUTOSCALER
from tools.monitoring.boards.engine import ENGINE
from tools.monitoring.boards.gpu import GPU
from tools.monitoring.boards.kv import KV
from tools.monitoring.boards.operator import OPERATOR
from tools.monitoring.boards.rollout import ROLLOUT
from tools.monitoring.boards.service import SERVICE

BOARDS = (SERVICE, AUTOSCALER, ROLLOUT, KV, ENGINE, OPERATOR, GPU)
