"""A Prometheus configuration for what `proa up` started: the same labels as in a cluster, and the same rules.

Targets stand in a file of their own, which Prometheus reads again when it changes: workers come and go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from proa_operator.local.process import Process, Role
from proa_operator.monitoring import RULES

Json = dict[str, Any]

CONFIG, TARGETS = "prometheus.yml", "targets.json"
NAMESPACE = REVISION = "local"
SCRAPE_SECONDS = 5


def write_config(state_dir: Path) -> Path:
    """`prometheus.yml` in the state folder; for `prometheus --config.file`."""
    path = state_dir / CONFIG
    path.write_text(yaml.safe_dump(config(state_dir), sort_keys=False), encoding="utf-8")
    return path


def write_targets(state_dir: Path, service: str, processes: Iterable[Process]) -> None:
    """The processes to scrape, in one step, so that Prometheus never reads half a file."""
    fresh = state_dir / f"{TARGETS}.new"
    fresh.write_text(json.dumps(targets(service, processes), indent=1), encoding="utf-8")
    fresh.replace(state_dir / TARGETS)


def config(state_dir: Path) -> Json:
    """The configuration: one job, all rules of the chart."""
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(RULES / "*.yaml")],
        "scrape_configs": [
            {"job_name": "proa", "file_sd_configs": [{"files": [str(state_dir / TARGETS)], "refresh_interval": "5s"}]}
        ],
    }


def targets(service: str, processes: Iterable[Process]) -> list[Json]:
    """One entry a process, with the labels that PodMonitors give in a cluster."""
    return [_target(service, process) for process in processes]


def _target(service: str, process: Process) -> Json:
    component = "gateway" if process.role is Role.GATEWAY else "worker"
    labels = {"job": f"{NAMESPACE}/{service}-{component}", "namespace": NAMESPACE, "service": service}
    if process.role is not Role.GATEWAY:
        # One pool of an aggregated service carries the label of the decode pool, as in a cluster.
        role = Role.DECODE if process.role is Role.BOTH else process.role
        labels |= {"role": role.value, "revision": REVISION, "group": process.name}
    url = urlsplit(process.metrics_url)
    return {"targets": [url.netloc], "labels": labels | {"pod": process.name, "__metrics_path__": url.path}}
