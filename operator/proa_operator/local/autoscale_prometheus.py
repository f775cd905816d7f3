"""A Prometheus of our own beside the service, where the program is installed (Debian: package `prometheus`)."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import yaml

from proa_operator.autoscale.queries import Windows
from proa_operator.cluster.autoscale_prometheus import Prometheus
from proa_operator.local.process import HttpServing, LocalPlan, Process, Role, Scaling
from proa_operator.local.prometheus import NAMESPACE, config, write_targets
from proa_operator.local.supervise import Supervisor

NAME = "prometheus"
_CONFIG = "prometheus-autoscaler.yml"
_START_SECONDS = 30.0


async def start_prometheus(
    plan: LocalPlan,
    scaling: Scaling,
    supervisor: Supervisor,
    windows: Windows,
    *,
    scrape_seconds: float,
    own_port: int,
) -> Prometheus | None:
    """Run it under the supervisor; None where it is not installed or does not start."""
    program = shutil.which(NAME)
    if program is None:
        return None
    path = plan.state_dir / _CONFIG
    write_targets(plan.state_dir, plan.service, plan.processes)
    path.write_text(yaml.safe_dump(quick_config(plan, scrape_seconds, own_port), sort_keys=False), encoding="utf-8")
    process = prometheus_process(program, plan, scaling.next_port())
    supervisor.add(process)
    try:
        await asyncio.wait_for(supervisor.children[NAME].is_serving.wait(), _START_SECONDS)
    except TimeoutError:
        await supervisor.remove(NAME)
        return None
    return Prometheus(f"http://127.0.0.1:{process.port}", windows)


def quick_config(plan: LocalPlan, scrape_seconds: float, own_port: int) -> dict[str, Any]:
    """The configuration of local mode, with more frequent scrapes, and the decisions' own metrics."""
    quick = config(plan.state_dir)
    interval = f"{round(scrape_seconds * 1000)}ms"
    quick["global"] |= {"scrape_interval": interval, "scrape_timeout": interval}
    own = {"targets": [f"127.0.0.1:{own_port}"], "labels": {"pod": "proa-up"}}
    quick["scrape_configs"].append({"job_name": f"{NAMESPACE}/proa-up", "honor_labels": True, "static_configs": [own]})
    return quick


def prometheus_process(program: str, plan: LocalPlan, port: int) -> Process:
    """On loopback, with its data in the state folder."""
    url = f"http://127.0.0.1:{port}"
    argv = (
        program,
        f"--config.file={plan.state_dir / _CONFIG}",
        f"--storage.tsdb.path={plan.state_dir / NAME}",
        "--storage.tsdb.retention.time=1d",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    return Process(
        name=NAME,
        role=Role.METRICS,
        argv=argv,
        env=(),
        port=port,
        metrics_url=f"{url}/metrics",
        ready=HttpServing(url=f"{url}/-/ready"),
        drain_seconds=10.0,
    )
