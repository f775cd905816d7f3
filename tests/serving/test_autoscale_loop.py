"""The whole loop on real processes: a step of the load, pools that grow and shrink, and not one request lost.

The modelled steps are long and the tokens few, so that what a busy machine adds to a step is small beside it, and the
objectives leave room for it. Nothing is awaited by the clock: decisions are counted, and the load is judged once the
new groups serve.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from proa_operator.autoscale.replay import replay
from proa_operator.local.autoscale import Autoscaler, autoscaled, config_of
from proa_operator.local.autoscale_profile import load_profile
from proa_operator.local.decision_log import RECORDS
from proa_operator.local.options import Options
from proa_operator.local.ports import FreePorts
from proa_operator.local.prepare import prepare
from proa_operator.local.process import LocalPlan
from proa_operator.local.supervise import Supervisor
from proa_operator.local.view import PlainView
from rich.console import Console

PERIOD, MOST = 3.0, 4
SLOW, FAST = 2.0, 10.0  # requests a second
TTFT, ITL = 4.0, 0.250
NUM_TOKENS, NUM_JUDGED = 12, 60
Speeds = Mapping[str, float]
SPEEDS: Speeds = {"step": 0.04, "token": 0.0035, "sequence": 0.014}
"""Seconds: a prompt of 65 tokens takes 0.27, so FAST needs three groups of each role, SLOW one."""
SHARED_SLOW = 1.2
SHARED_SPEEDS: Speeds = {"step": 0.06, "token": 0.005, "sequence": 0.012}
"""Slower ones, where the steps themselves are measured."""


def cost_of(speeds: Speeds) -> dict[str, Any]:
    """What the engine takes."""
    return {
        "provenance": "simulated: slow on purpose, for a closed loop on two cores",
        "step_base_seconds": speeds["step"],
        "step_experts_seconds": 0.0,
        "expert_share": 0.0,
        "prefill_token_seconds": speeds["token"],
        "prefill_pair_seconds": 0.0,
        "decode_seq_seconds": speeds["sequence"],
        "decode_context_token_seconds": 0.0,
        "kv_bytes_per_token": 1024,
        "kv_cache_tokens": 65536,
        "transfer_latency_seconds": 0.0,
        "transfer_bytes_per_second": 1.0e12,
    }


def profile_of(speeds: Speeds) -> dict[str, Any]:
    """What the autoscaler is told."""
    spec = {
        "model": "bundled://tiny-moe",
        "engine": "sim",
        "step": {"baseSeconds": str(speeds["step"])},
        "prefill": {"tokenSeconds": str(speeds["token"])},
        "decode": {"sequenceSeconds": str(speeds["sequence"])},
        "kvBytesPerToken": 1024,
        "kvCacheTokens": 65536,
        "startupSeconds": 2,
        "provenance": {"origin": "simulated", "date": "2026-11-24"},
    }
    head = {"apiVersion": "proa.dev/v1alpha1", "kind": "PerformanceProfile", "metadata": {"name": "loop"}}
    return {**head, "spec": spec}


BEHAVIOR = {"periodSeconds": round(PERIOD), "upWindowSeconds": round(PERIOD), "downWindowSeconds": 10, "pinSeconds": 10}
"""One decision that is sure is enough to grow."""
SPEC = {
    "model": {"uri": "bundled://tiny-moe", "name": "loop"},
    "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}},
    "slo": {"ttftMs": round(TTFT * 1000), "itlMs": round(ITL * 1000), "percentile": 90},
    "drain": {"timeoutSeconds": 30},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request."""

    error: str
    ttft: float
    itl: float

    @property
    def is_good(self) -> bool:
        """Within both objectives."""
        return not self.error and self.ttft <= TTFT and self.itl <= ITL


@dataclass(slots=True)
class Load:
    """Clients that send `rate` requests a second with prompts that no cache knows."""

    plan: LocalPlan
    client: httpx.AsyncClient
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    rate: float = SLOW
    tasks: list[asyncio.Task[Answer]] = field(default_factory=list)

    async def run(self) -> None:
        """A new rate holds within a tenth of a second; what a busy machine delays is caught up with."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, min(0.1, last + 1.0 / self.rate - time.monotonic())))
            if time.monotonic() >= last + 1.0 / self.rate:
                last += 1.0 / self.rate
                self.tasks.append(asyncio.create_task(self._ask()))

    async def _ask(self) -> Answer:
        prompt = " ".join(self.rng.choice("abcdefghijkl") for _ in range(60))
        body = {"model": "loop", "prompt": prompt, "max_tokens": NUM_TOKENS, "stream": True}
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
        return Answer(error=error, ttft=first - started, itl=itl)


@asynccontextmanager
async def served(
    folder: Path, *, least: int = 1, speeds: Speeds = SPEEDS, profiled: Speeds = SPEEDS, **changes: Any
) -> AsyncIterator[tuple[LocalPlan, Autoscaler]]:
    """`speeds` of the workers, and those that the profile says; `changes` to the spec."""
    port = FreePorts("127.0.0.1", random.Random().randrange(21000, 27000))()
    (folder / "cost.yaml").write_text(yaml.safe_dump(cost_of(speeds)))
    pools = {role: {"min": least, "max": MOST} for role in ("prefill", "decode")}
    autoscaling = {"mode": "Active", **pools, "behavior": BEHAVIOR}
    engine = {"type": "sim", "args": ["--sim-profile", str(folder / "cost.yaml"), "--max-num-batched-tokens", "256"]}
    manifest = {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": "loop"},
        "spec": {**SPEC, "engine": engine, "autoscaling": autoscaling, "gateway": {"port": port}, **changes},
    }
    (folder / "service.yaml").write_text(yaml.safe_dump(manifest))
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile_of(profiled)))
    plan = prepare(folder / "service.yaml", Options(num_cores=1), folder / "state")
    assert plan.scaling is not None
    config = config_of(plan.scaling, load_profile(folder / "profile.yaml"))
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


def lines(plan: LocalPlan) -> list[str]:
    path = plan.state_dir / RECORDS
    return path.read_text().splitlines() if path.exists() else []


def last(plan: LocalPlan) -> dict[str, Any]:
    """The last decision; empty before the first."""
    found = lines(plan)
    return dict(json.loads(found[-1])) if found else {}


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


async def just_decided(plan: LocalPlan) -> int:
    """A moment at which most of a period is left until the next decision; returns how many there are."""
    await until(lambda: time.time() - last(plan)["signals"]["now"] < PERIOD / 4.0, what="no decision in time")
    return len(lines(plan))


def num_until_growth(plan: LocalPlan, before: int) -> int:
    """Decisions after the first `before`, up to the one with which both pools have grown; 0 while they have not."""
    later = lines(plan)[before:]
    return next((idx for idx, line in enumerate(later, 1) if min(sizes(json.loads(line))) > 1), 0)


def has_grown(record: dict[str, Any]) -> bool:
    """The groups that FAST needs serve."""
    pools = (record["signals"]["prefill"], record["signals"]["decode"])
    return all(pool["ready"] == pool["desired"] >= 3 for pool in pools)


@pytest.mark.slow
@pytest.mark.timeout(900)  # each wait has its own deadline
@pytest.mark.parametrize("source", ["prometheus", "own"])
async def test_a_step_of_the_load(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(source, monkeypatch)
    limits = httpx.Limits(max_connections=500)
    async with served(tmp_path) as (plan, autoscaler), httpx.AsyncClient(timeout=120.0, limits=limits) as client:
        load = Load(plan, client)
        tasks = [asyncio.create_task(autoscaler.run()), asyncio.create_task(load.run())]
        await until(lambda: len(lines(plan)) >= 6, what="six decisions")
        assert sizes(last(plan)) == (1, 1)
        before, load.rate = await just_decided(plan), FAST
        await until(lambda: num_until_growth(plan, before), what="no growth")
        print(f"growth at decision {num_until_growth(plan, before)}")
        assert num_until_growth(plan, before) <= 2
        await until(lambda: has_grown(last(plan)), what="the new groups do not serve", seconds=180.0)
        await asyncio.wait_for(asyncio.gather(*load.tasks), 120.0)  # those that came while the groups started
        num_early = len(load.tasks)
        await until(lambda: len(load.tasks) >= num_early + NUM_JUDGED, what="the load stands", seconds=120.0)
        load.rate, judged = SLOW, load.tasks[num_early : num_early + NUM_JUDGED]
        await until(lambda: sizes(last(plan)) == (1, 1), what="it does not shrink", seconds=240.0)
        for task in tasks:
            task.cancel()
        answers = await asyncio.gather(*load.tasks)
    assert [answer.error for answer in answers if answer.error] == []
    late = [(round(task.result().ttft, 2), round(task.result().itl, 3)) for task in judged if not task.result().is_good]
    print(f"{len(late)} of {NUM_JUDGED} outside the objectives: {late}")
    assert len(late) <= 0.1 * NUM_JUDGED
    assert all(replay(json.loads(line)).differences == () for line in lines(plan)[::10])


@pytest.mark.slow
async def test_the_shared_step_of_real_workers_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile says that all takes two thirds of the time that it takes; a busy machine makes it rather longer."""
    choose("own", monkeypatch)
    profiled = {name: round(seconds / 1.5, 5) for name, seconds in SHARED_SPEEDS.items()}
    shape = {"topology": "Aggregated", "pools": {"decode": {"replicas": 1}}}
    autoscaling = {"mode": "Advisory", "decode": {"min": 1, "max": MOST}, "behavior": BEHAVIOR}
    settings: dict[str, Any] = {**shape, "autoscaling": autoscaling}
    async with (
        served(tmp_path, speeds=SHARED_SPEEDS, profiled=profiled, **settings) as (plan, autoscaler),
        httpx.AsyncClient(timeout=60.0) as client,
    ):
        load = Load(plan, client, rate=SHARED_SLOW)
        tasks = [asyncio.create_task(autoscaler.run()), asyncio.create_task(load.run())]
        await until(lambda: learned(last(plan)) >= 8, what="eight samples", seconds=120.0)
        for task in tasks:
            task.cancel()
        answers = await asyncio.gather(*load.tasks)
    assert [answer.error for answer in answers if answer.error] == []
    model = last(plan)["after"]["model"]
    print(
        f"prefill {model['prefill']['work']:.2f}, decode {model['decode']['fixed']:.2f} {model['decode']['work']:.2f}"
    )
    assert 1.25 <= model["prefill"]["work"] <= 2.0
    assert 1.25 <= model["decode"]["fixed"] <= 2.0


def learned(record: dict[str, Any]) -> int:
    """Measurements that counted."""
    model = record["after"]["model"] if record else None
    return min(model["prefill"]["samples"], model["decode"]["samples"]) if model else 0


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
        await until(lambda: lines(plan) and sizes(last(plan)) == (0, 0), what="it does not sleep")
        asked, answers = time.monotonic(), [0]
        while not (answers[-1] == 200 and {404, 503} & set(answers)):  # until they are gone, old workers still answer
            assert time.monotonic() - asked < 60.0, f"not woken: {answers}"
            answers.append((await client.post(f"{plan.url}/v1/completions", json=body)).status_code)
            await asyncio.sleep(0.5)
        running.cancel()
    assert set(answers[1:]) <= {200, 404, 503}
    woken = next(record for record in map(json.loads, lines(plan)) if record["outcome"]["reason"] == "WakeUp")
    assert min(sizes(woken)) >= 1
