"""The operator with short pauses, and changed where VARIANT says: mostly a fault in its planner. For tests only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import proa_operator.render
from proa_operator import main
from proa_operator.cluster.reconcile import Planner
from proa_operator.plan import gang, halves
from proa_operator.plan.plan import plan
from proa_operator.plan.renderer import ClusterRenderer
from proa_operator.plan.rollout import Ledger
from proa_operator.plan.settings import PlanSettings
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.render import RenderSettings, env, pod

SHORT = PlanSettings(
    settle_seconds=2.0,
    probe_retry_seconds=1.0,
    restart_first_seconds=1.0,
    restart_most_seconds=5.0,
    regate_seconds=3.0,
)


def short_planner(render: RenderSettings) -> Planner:
    """As `main.planner_for`."""
    renderer = ClusterRenderer(settings=render)
    return lambda observed: plan(observed, SHORT, renderer)


def _unpaired() -> None:
    """Workers of all revisions say that they can be paired."""

    def worker_env(*args: Any, **named: Any) -> Any:
        entries = env.worker_env(*args, **named)
        return [{**one, "value": "any"} if one["name"] == "SMG_PAIRING_PROTOCOL" else one for one in entries]

    setattr(pod, "worker_env", worker_env)  # noqa: B010 - the module does not export it


def _ungated() -> None:
    """Pods go through the gate whether there is room or not, and what is only partly bound stays."""
    setattr(gang, "_rooms_of", lambda situation, fresh: {})  # noqa: B010
    setattr(gang, "_take_back", lambda situation, standing: ())  # noqa: B010
    setattr(halves, "give_back", lambda situation, find_short: ())  # noqa: B010


VARIANTS: Mapping[str, Callable[[], None]] = {
    "pairing": _unpaired,
    "capacity": lambda: setattr(Ledger, "_keeps", lambda self, leaver: True),
    "budget": lambda: setattr(Situation, "budget", lambda self, role: 6),
    "work": lambda: setattr(Standing, "may_work", property(lambda self: False)),
    "gang": _ungated,
    "upgrade": lambda: setattr(proa_operator.render, "TEMPLATE_VERSION", 1000),
    "none": lambda: None,
}

if __name__ == "__main__":
    VARIANTS[os.environ.pop("VARIANT", "none")]()
    main.planner_for = short_planner
    sys.exit(main.main())
