"""Panels and rules about engine, gateway, KV fabric and autoscaler have data: real processes, a real Prometheus."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from proa_operator.local.ports import FreePorts
from proa_operator.monitoring import RULES

from tests.monitoring import queries
from tests.monitoring.live_prometheus import Prometheus, running
from tools.monitoring.boards import AUTOSCALER, ENGINE, KV, SERVICE

MANIFEST = Path(__file__).parents[2] / "examples" / "sim.yaml"
AUTOSCALING = {
    "slo": {"ttftMs": 5000, "itlMs": 1000, "percentile": 95},
    "autoscaling": {
        "mode": "Active",
        "prefill": {"min": 1, "max": 2},
        "decode": {"min": 1, "max": 2},
        "behavior": {"periodSeconds": 2},
    },
}
PROFILE = {
    "apiVersion": "proa.dev/v1alpha1",
    "kind": "PerformanceProfile",
    "metadata": {"name": "sim"},
    "spec": {
        "model": "bundled://tiny-moe",
        "engine": "sim",
        "step": {"baseSeconds": "3.3e-3", "expertsSeconds": "12.2e-3", "expertShare": "0.0625"},
        "prefill": {"tokenSeconds": "11.1e-6"},
        "decode": {"sequenceSeconds": "20e-6", "contextTokenSeconds": "21e-9"},
        "kvBytesPerToken": 98304,
        "kvCacheTokens": 262144,
        "provenance": {"origin": "simulated", "date": "2026-11-24"},
    },
}
AUTOSCALER_CONFIG = "prometheus-autoscaler.yml"
"""What `proa up` gives to its own Prometheus: frequent scrapes, and the decisions' metrics too."""
START_SECONDS, LOAD_SECONDS, DATA_SECONDS = 90.0, 60.0, 90.0


@pytest.fixture(scope="module")
def prometheus(prometheus_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes a local service that answers streams all the time."""
    folder, files = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("manifests")
    port = FreePorts("127.0.0.1", 19000)()
    manifest = yaml.safe_load(MANIFEST.read_text("utf-8"))
    manifest["spec"] |= AUTOSCALING
    for name, content in (("service", manifest), ("profile", PROFILE)):
        (files / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    flags = [f"--port={port}", f"--state-dir={folder}", f"--profile={files / 'profile.yaml'}"]
    up = [sys.executable, "-m", "proa_operator.cli.main", "up", str(files / "service.yaml"), *flags]
    with subprocess.Popen(up, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as service:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_served(url, service)
            stop = threading.Event()
            load = threading.Thread(target=_ask_all_the_time, args=(url, stop))
            load.start()
            try:
                _wait_for_file(folder / AUTOSCALER_CONFIG)
                with running(prometheus_program, folder / AUTOSCALER_CONFIG, folder / "data") as found:
                    yield found
            finally:
                stop.set()
                load.join(60)
        finally:
            service.terminate()
            service.wait(60)


def _wait_until_served(url: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and service.poll() is None:
        try:
            if httpx.get(f"{url}/readiness", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError("the service does not start")


def _wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} is not written"
        time.sleep(0.2)


def _ask_all_the_time(url: str, stop: threading.Event) -> None:
    body = {"model": "sim", "stream": True, "max_tokens": 16, "messages": [{"role": "user", "content": "Hello " * 40}]}
    deadline = time.monotonic() + START_SECONDS + LOAD_SECONDS + DATA_SECONDS
    with httpx.Client(timeout=60) as client:
        while not stop.is_set() and time.monotonic() < deadline:
            client.post(f"{url}/v1/chat/completions", json=body)


def test_every_panel_has_data(prometheus: Prometheus) -> None:
    wanted = {where: queries.filled(expr) for where, expr in queries.of((SERVICE, ENGINE, KV, AUTOSCALER)).items()}
    missing = prometheus.wait_for(list(wanted.values()), DATA_SECONDS)
    assert [where for where, expr in wanted.items() if expr in missing] == []


def test_every_recording_rule_has_data_and_no_rule_fails(prometheus: Prometheus) -> None:
    recorded = [
        rule["record"]
        for group in yaml.safe_load((RULES / "recording.yaml").read_text("utf-8"))["groups"]
        for rule in group["rules"]
    ]
    assert prometheus.wait_for(recorded, DATA_SECONDS) == []
    assert {name: health for name, health in prometheus.rules(DATA_SECONDS).items() if health != "ok"} == {}


def test_a_healthy_service_raises_no_alert(prometheus: Prometheus) -> None:
    assert [alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]] == []


def test_a_query_without_data_is_found(prometheus: Prometheus) -> None:
    assert prometheus.wait_for(["vllm:no_such_metric"], 0) == ["vllm:no_such_metric"]
