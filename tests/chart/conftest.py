"""The real helm, built by the test bed, and charts rendered with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.build import CONTROL_PLANE, build
from testbed.tiers import left_out

CHARTS = Path(__file__).parents[2] / "charts"
MONITORING = tuple(f"--api-versions=monitoring.coreos.com/v1/{kind}" for kind in ("PodMonitor", "PrometheusRule"))
Rendered = list[dict[str, Any]]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build helm here, where no test's timer runs."""
    wanted = any("helm" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly and not left_out("a"):
        with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            build({"helm": CONTROL_PLANE["helm"]})


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Run helm without any cluster; the finished run, whatever its status."""
    if reason := left_out("a"):
        pytest.skip(f"helm is built by the test bed, and {reason}")
    program = build({"helm": CONTROL_PLANE["helm"]}) / "helm"
    home = str(tmp_path_factory.mktemp("helm"))
    homes = {f"HELM_{kind}_HOME": home for kind in ("CACHE", "CONFIG", "DATA")}
    environment = {**os.environ, **homes, "KUBECONFIG": os.devnull}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), *arguments], capture_output=True, text=True, timeout=120, env=environment, check=False
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Callable[..., Rendered]:
    """Objects of a chart, rendered in namespace `proa-system` for a cluster with the Prometheus operator."""

    def objects(*flags: str, chart: str = "proa") -> Rendered:
        where = ("--namespace=proa-system", *MONITORING)
        done = helm("template", "proa", str(CHARTS / chart), *where, *flags)
        assert done.returncode == 0, done.stderr
        return [found for found in yaml.safe_load_all(done.stdout) if found]

    return objects
