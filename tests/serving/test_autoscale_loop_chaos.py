"""What a real Prometheus says when pages lie, change, start anew or go away, and what the autoscaler makes of it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator.autoscale.queries import Windows
from proa_operator.autoscale.readings import Pools, Readings, is_short, readings_of, signals_of
from proa_operator.autoscale.signals import PoolSignals, Signals
from proa_operator.autoscale.source import Unanswered
from proa_operator.cluster.autoscale_prometheus import Prometheus

from tests.monitoring.live_prometheus import running
from tests.unit.autoscale_cases import config

SECONDS = 60.0
WINDOWS = Windows(quick=3.0, slow=3.0, stale=3.0)
PODS = {"prefill-0": "prefill", "prefill-1": "prefill", "decode-0": "decode", "gateway-0": ""}
POOLS = Pools(prefill=PoolSignals(desired=2, ready=2), decode=PoolSignals(desired=1, ready=1), num_gateways=1)


@dataclass(slots=True)
class Pages:
    """Metrics pages of a service whose counters grow; the test spoils them."""

    started: float = field(default_factory=time.monotonic)
    gone: set[str] = field(default_factory=set)
    waiting: str = "1"
    usage: str = "vllm:kv_cache_usage_perc"

    def text(self, pod: str) -> str:
        """Two requests a second of 300 tokens in and 50 out."""
        count = 2.0 * (time.monotonic() - self.started)
        if pod.startswith("gateway"):
            return f'smg_tokio_workers 2\nsmg_http_requests_total{{method="POST",path="/v1/completions"}} {count}\n'
        lines = ["vllm:num_requests_running 3", f"vllm:num_requests_waiting {self.waiting}", f"{self.usage} 0.25"]
        lines += [f"vllm:prefix_cache_queries_total {300 * count}", f"vllm:prefix_cache_hits_total {75 * count}"]
        of_each = {"request_prompt_tokens": ("500", 300.0), "request_generation_tokens": ("100", 50.0)}
        for name, (bound, mean) in {**of_each, "inter_token_latency_seconds": ("0.05", 0.02)}.items():
            lines += [f'vllm:{name}_bucket{{le="{le}"}} {count}' for le in (bound, "+Inf")]
            lines += [f"vllm:{name}_count {count}", f"vllm:{name}_sum {mean * count}"]
        return "\n".join(lines) + "\n"


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def server(pages: Pages) -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pod = self.path.strip("/")
            self.send_response(500 if pod in pages.gone else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(pages.text(pod).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def configured(server: ThreadingHTTPServer, folder: Path) -> Path:
    """Each page is a pod."""
    place = {"namespace": "ns", "service": "s"}
    targets = [
        {
            "targets": [f"127.0.0.1:{server.server_port}"],
            "labels": {**place, "pod": pod, "__metrics_path__": f"/{pod}", **({"role": role} if role else {})},
        }
        for pod, role in PODS.items()
    ]
    path = folder / "prometheus.yml"
    jobs = [{"job_name": "pods", "static_configs": targets}]
    path.write_text(yaml.safe_dump({"global": {"scrape_interval": "500ms"}, "scrape_configs": jobs}))
    return path


async def read(source: Prometheus) -> tuple[Readings, Signals]:
    readings = readings_of(await source.read()).get(("ns", "s"), Readings())
    return readings, signals_of(readings, POOLS, config(), 0.0)


async def until(source: Prometheus, condition: Callable[[Readings, Signals], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition(*await read(source)):
        assert time.monotonic() < deadline, f"{what}: {(await read(source))[1].missing}"
        await asyncio.sleep(0.2)


def is_fresh(readings: Readings, signals: Signals) -> bool:
    return signals.is_fresh and not is_short(readings, POOLS) and signals.arrivals_per_second > 1.0


async def test_chaos_on_a_real_prometheus(
    prometheus_program: str, pages: Pages, server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    with running(prometheus_program, configured(server, tmp_path), tmp_path / "data") as found:
        source = Prometheus(found.url, WINDOWS)
        await until(source, is_fresh, "never fresh")
        pages.waiting = "NaN"
        await until(source, misses("vllm:num_requests_waiting of prefill"), "NaN")
        pages.waiting, pages.usage = "1", "vllm:kv_use_perc"
        await until(source, misses("vllm:kv_cache_usage_perc of decode"), "renamed")
        pages.usage = "vllm:kv_cache_usage_perc"
        await until(source, is_fresh, "fresh after a rename")
        pages.gone = {"prefill-1"}
        await until(source, lambda readings, _: is_short(readings, POOLS), "half unscraped")
        pages.gone = {"gateway-0"}
        await until(source, misses("smg_tokio_workers of gateway"), "the gateway unscraped")
        pages.gone = set()
        await until(source, is_fresh, "fresh after gaps")
        pages.started = time.monotonic()
        for _ in range(20):  # of the rates, Prometheus takes a fall of a counter for a start from zero
            signals = (await read(source))[1]
            assert signals.is_fresh
            assert 0.0 <= signals.arrivals_per_second < 4.0
            assert all(math.isfinite(bucket.prompt_tokens) for bucket in signals.histogram)
            await asyncio.sleep(0.2)
        pages.gone = set(PODS)
        await until(source, lambda _, signals: len(signals.missing) > 3, "stale")
    with pytest.raises(Unanswered, match="does not answer"):
        await source.read()
    await source.close()


def misses(name: str) -> Callable[[Readings, Signals], bool]:
    return lambda _, signals: name in signals.missing
