"""Probes of a worker."""

from __future__ import annotations

from proa_operator.names import WORKER_PORTS, Port
from proa_operator.render.service import JsonObject

LOADING_SECONDS = 7200  # 700 GB of weights and a cold JIT cache; the rollout's own deadline is time without progress
CPU_LOADING_SECONDS = 600


def worker_probes(*, has_accelerator: bool) -> JsonObject:
    """Start-up and readiness ask the engine's health service; liveness asks only whether the process listens.

    A draining worker reports NOT_SERVING and must not be killed for it; one that hangs is the operator's business
    (`spec.health`), which sees requests waiting and no steps.
    """
    health: JsonObject = {"grpc": {"port": WORKER_PORTS[Port.ENGINE]}, "timeoutSeconds": 5}
    period, budget = (10, LOADING_SECONDS) if has_accelerator else (2, CPU_LOADING_SECONDS)
    return {
        "startupProbe": {**health, "periodSeconds": period, "failureThreshold": budget // period},
        "readinessProbe": {**health, "periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {
            "tcpSocket": {"port": WORKER_PORTS[Port.ENGINE]},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }
