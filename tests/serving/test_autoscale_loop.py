"""The whole loop on real processes: a step of the load, pools that grow and shrink, and not one request lost."""

from __future__ import annotations

import asyncio
import io
import json
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from proa_operator.autoscale.config import config_from
from proa_operator.autoscale.replay import replay
from proa_operator.local.autoscale import Autoscaler, autoscaled
from proa_operator.local.autoscale_profile import load_profile
from proa_operator.local.decision_log import RECORDS
from proa_operator.local.options import Options
from proa_operator.local.ports import FreePorts
from proa_operator.local.prepare import prepare
from proa_operator.local.process import LocalPlan
from proa_operator.local.supervise import Supervisor
from proa_operator.local.view import PlainView
from rich.console import Console

PERIOD, MOST = 2.0, 4
SLOW, FAST = 1.6, 8.0  # requests a second
TTFT, ITL = 2.0, 0.100
SPEEDS = {"step": 0.02, "token": 0.004, "sequence": 0.004}
"""Seconds: slow on purpose, so that a few requests a second keep two cores' worth of processes busy."""
COST = {
    "provenance": "simulated: slow on purpose, for a closed loop on two cores",
    "step_base_seconds": SPEEDS["step"],
    "step_experts_seconds": 0.0,
    "expert_share": 0.0,
    "prefill_token_seconds": SPEEDS["token"],
    "prefill_pair_seconds": 0.0,
    "decode_seq_seconds": SPEEDS["sequence"],
    "decode_context_token_seconds": 0.0,
    "kv_bytes_per_token": 1024,
    "kv_cache_tokens": 65536,
    "transfer_latency_seconds": 0.0,
    "transfer_bytes_per_second": 1.0e12,
}
PROFILE = {
    "apiVersion": "proa.dev/v1alpha1",
    "kind": "PerformanceProfile",
    "metadata": {"name": "loop"},
    "spec": {
        "model": "bundled://tiny-moe",
        "engine": "sim",
        "step": {"baseSeconds": str(SPEEDS["step"])},
        "prefill": {"tokenSeconds": str(SPEEDS["token"])},
        "decode": {"sequenceSeconds": str(SPEEDS["sequence"])},
        "kvBytesPerToken": 1024,
        "kvCacheTokens": 65536,
        "startupSeconds": 2,
        "provenance": {"origin": "simulated", "date": "2026-11-24"},
    },
}
BEHAVIOR = {"periodSeconds": round(PERIOD), "upWindowSeconds": 4, "downWindowSeconds": 10, "pinSeconds": 10}
SPEC = {
    "model": {"uri": "bundled://tiny-moe", "name": "loop"},
    "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}},
    "slo": {"ttftMs": round(TTFT * 1000), "itlMs": round(ITL * 1000), "percentile": 90},
    "drain": {"timeoutSeconds": 30},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request."""

    sent_at: float
    error: str
    ttft: float
    itl: float


@dataclass(slots=True)
class Load:
    """Clients that send `rate` requests a second with prompts that no cache knows."""

    plan: LocalPlan
    client: httpx.AsyncClient
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    rate: float = SLOW
    tasks: list[asyncio.Task[Answer]] = field(default_factory=list)

    async def run(self) -> None:
        while True:
            self.tasks.append(asyncio.create_task(self._ask()))
            await asyncio.sleep(1.0 / self.rate)

    async def _ask(self) -> Answer:
        prompt = " ".join(self.rng.choice("abcdefghijkl") for _ in range(60))
        body = {"model": "loop", "prompt": prompt, "max_tokens": 30, "stream": True}
        started, first, last, num_tokens, error = time.time(), 0.0, 0.0, 0, ""
        try:
            async with self.client.stream("POST", f"{self.plan.url}/v1/completions", json=body) as answer:
                error = "" if answer.status_code == 200 else f"status {answer.status_code}"
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        last = time.time()
                        first, num_tokens = first or last, num_tokens + 1
                        error = line if '"error"' in line else error
        except httpx.HTTPError as problem:
            error = repr(problem)
        itl = (last - first) / max(1, num_tokens - 1)
        return Answer(sent_at=started, error=error, ttft=first - started, itl=itl)


@asynccontextmanager
async def served(folder: Path, *, least: int = 1) -> AsyncIterator[tuple[LocalPlan, Autoscaler]]:
    port = FreePorts("127.0.0.1", random.Random().randrange(21000, 27000))()
    (folder / "cost.yaml").write_text(yaml.safe_dump(COST))
    pools = {role: {"min": least, "max": MOST} for role in ("prefill", "decode")}
    autoscaling = {"mode": "Active", **pools, "behavior": BEHAVIOR}
    engine = {"type": "sim", "args": ["--sim-profile", str(folder / "cost.yaml"), "--max-num-batched-tokens", "256"]}
    manifest = {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": "loop"},
        "spec": {**SPEC, "engine": engine, "autoscaling": autoscaling, "gateway": {"port": port}},
    }
    (folder / "service.yaml").write_text(yaml.safe_dump(manifest))
    (folder / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    plan = prepare(folder / "service.yaml", Options(num_cores=1), folder / "state")
    assert plan.scaling is not None
    config = config_from(plan.service, plan.scaling.service.spec, load_profile(folder / "profile.yaml"))
    view = PlainView(Console(file=io.StringIO()))
    supervisor = Supervisor(plan, view.changed)
    running = asyncio.create_task(supervisor.run())
    try:
        await asyncio.wait_for(supervisor.serving(), 60.0)
        async with autoscaled(plan, plan.scaling, config, supervisor, view) as autoscaler:
            yield plan, autoscaler
    finally:
        supervisor.ask_stop()
        await running


def records(plan: LocalPlan) -> list[dict[str, Any]]:
    path = plan.state_dir / RECORDS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def sizes(record: dict[str, Any]) -> tuple[int, int]:
    targets = record["outcome"]["targets"]
    return targets["prefill"], targets["decode"]


async def until(condition: Any, *, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)


def choose(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's Prometheus, or the scrape loop."""
    if source == "own":
        monkeypatch.setattr("proa_operator.local.autoscale_prometheus.shutil.which", lambda _: None)
    elif shutil.which("prometheus") is None:
        pytest.skip("Debian's package prometheus is not installed")


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.parametrize("source", ["prometheus", "own"])
async def test_a_step_of_the_load(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(source, monkeypatch)
    limits = httpx.Limits(max_connections=500)
    async with served(tmp_path) as (plan, autoscaler), httpx.AsyncClient(timeout=60.0, limits=limits) as client:
        load = Load(plan, client)
        tasks = [asyncio.create_task(autoscaler.run()), asyncio.create_task(load.run())]
        await until(lambda: len(records(plan)) >= 6, what="six decisions")
        assert sizes(records(plan)[-1]) == (1, 1)
        load.rate, before, stepped_at = FAST, len(records(plan)), time.time()
        await until(lambda: sizes(records(plan)[-1]) != (1, 1), what="no growth")
        assert len(records(plan)) - before <= 2
        await until(lambda: time.time() > stepped_at + 32.0, what="the clock stands")
        grown = sizes(records(plan)[-1])
        load.rate, calmed_at = SLOW, time.time()
        await until(lambda: sizes(records(plan)[-1]) == (1, 1), what="it does not shrink", seconds=120.0)
        for task in tasks:
            task.cancel()
        answers = await asyncio.gather(*load.tasks)
    assert [answer.error for answer in answers if answer.error] == []
    assert grown[0] >= 2
    assert grown[1] >= 2
    settled = [answer for answer in answers if stepped_at + 18.0 <= answer.sent_at < calmed_at]
    good = [answer for answer in settled if answer.ttft <= TTFT and answer.itl <= ITL]
    assert len(good) >= 0.9 * len(settled)
    assert all(replay(record).differences == () for record in records(plan)[::10])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["prometheus", "own"])
async def test_a_service_sleeps_and_a_request_wakes_it(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asleep, the gateway answers 404 at once and counts the request; a client that tries again is served."""
    choose(source, monkeypatch)
    body = {"model": "loop", "prompt": "a b c", "max_tokens": 4}
    async with served(tmp_path, least=0) as (plan, autoscaler), httpx.AsyncClient(timeout=30.0) as client:
        running = asyncio.create_task(autoscaler.run())
        assert (await client.post(f"{plan.url}/v1/completions", json=body)).status_code == 200
        await until(lambda: records(plan) and sizes(records(plan)[-1]) == (0, 0), what="it does not sleep")
        asked, answers = time.monotonic(), [0]
        while not (answers[-1] == 200 and {404, 503} & set(answers)):  # until they are gone, old workers still answer
            assert time.monotonic() - asked < 60.0, f"not woken: {answers}"
            answers.append((await client.post(f"{plan.url}/v1/completions", json=body)).status_code)
            await asyncio.sleep(0.5)
        running.cancel()
    assert set(answers[1:]) <= {200, 404, 503}
    woken = next(record for record in records(plan) if record["outcome"]["reason"] == "WakeUp")
    assert min(sizes(woken)) >= 1
