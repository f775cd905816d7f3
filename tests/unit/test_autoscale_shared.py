"""Groups that read and write: the models learn from steps that hold prompts and sequences together."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from proa_operator.autoscale.config import Config, Speed
from proa_operator.autoscale.cost import decode_seconds, fixed_seconds, prompt_seconds
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.models import GroupModel, prior, update
from proa_operator.autoscale.signals import PoolSignals, Signals
from proa_operator.autoscale.solve import need_of, predict

from tests.unit.autoscale_cases import LENGTHS, PERIOD, SPEED, config, signals

WINDOW = 60.0
DEMAND = Demand(requests_per_second=2.0, hit_rate=0.0, lengths=LENGTHS)


@dataclass(slots=True)
class Seq:
    """One request."""

    arrived: float
    prompt: float
    left: int
    started: float = -1.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one step adds to the counters."""

    at: float
    seconds: float
    num_gaps: int
    num_running: int
    read: float
    """Seconds of the prompts that it read to their end."""
    num_read: int


def steps(rate: float, speed: Speed, until: float) -> Iterator[Step]:
    """One engine in virtual time that puts all waiting prompts, whole, and all sequences into its next step."""
    rng, now, next_at = random.Random(11), 0.0, 0.0
    arriving: deque[Seq] = deque()
    decoding: list[Seq] = []
    while now < until:
        while next_at <= now:
            length = rng.choice(LENGTHS)
            arriving.append(Seq(next_at, length.prompt_tokens, round(length.output_tokens)))
            next_at += rng.expovariate(rate)
        if not arriving and not decoding:
            now = next_at
            continue
        prompts = list(arriving)
        arriving.clear()
        tokens = len(decoding) + sum(seq.prompt for seq in prompts)
        seconds = fixed_seconds(speed, tokens) + decode_seconds(speed, len(decoding), DEMAND.mean_context)
        seconds += sum(prompt_seconds(speed, seq.prompt, 0.0) for seq in prompts)
        now += seconds
        yield Step(
            now, seconds, len(decoding), len(decoding) + len(prompts), seconds * len(prompts), num_read=len(prompts)
        )
        for seq in (*decoding, *prompts):
            seq.left -= 1
        decoding = [seq for seq in (*decoding, *prompts) if seq.left > 0]


def seen(rate: float, speed: Speed, until: float) -> Iterator[Signals]:
    """As Prometheus would tell it, once a period, over the window."""
    kept: deque[Step] = deque()
    due = WINDOW
    for step in steps(rate, speed, until):
        kept.append(step)
        while kept[0].at < step.at - WINDOW:
            kept.popleft()
        if step.at < due:
            continue
        due += PERIOD
        running = sum(one.seconds * one.num_running for one in kept) / WINDOW
        base = signals(step.at, sum(one.num_read for one in kept) / WINDOW, 0, 1)
        yield replace(
            base,
            decode=PoolSignals(desired=1, ready=1, running=running),
            itl_mean=sum(one.seconds * one.num_gaps for one in kept) / max(1, sum(one.num_gaps for one in kept)),
            prefill_mean=sum(one.read for one in kept) / max(1, sum(one.num_read for one in kept)),
        )


def settings(**changes: Any) -> Config:
    return replace(config(is_aggregated=True), **changes)


def scaled(fixed: float, prompt: float, sequence: float) -> Speed:
    """A group whose parts take so many times what the profile says."""
    return replace(
        SPEED,
        step_base=fixed * SPEED.step_base,
        prefill_token=prompt * SPEED.prefill_token,
        decode_seq=sequence * SPEED.decode_seq,
    )


def learned(rate: float, speed: Speed, known: Config) -> GroupModel:
    model = prior(known)
    for one in seen(rate, speed, 900.0):
        model = update(model, one, DEMAND, known)
    return model


def decode_step(model: GroupModel, num_seqs: float) -> float:
    work = decode_seconds(SPEED, num_seqs, DEMAND.mean_context)
    return model.decode.fixed * fixed_seconds(SPEED, num_seqs) + model.decode.work * work


@pytest.mark.parametrize(
    ("rate", "fixed", "prompt", "sequence"),
    [
        (1.0, 1.0, 1.0, 1.0),
        (2.0, 1.0, 1.0, 1.0),
        (1.5, 1.5, 1.0, 1.0),
        (0.5, 1.0, 1.6, 1.0),
        (2.0, 1.0, 1.0, 1.8),
        (1.0, 0.7, 0.7, 0.7),
        (2.0, 0.7, 0.7, 0.7),
    ],
)
def test_the_shared_step_is_learned(rate: float, fixed: float, prompt: float, sequence: float) -> None:
    """What the solver asks of the models comes out: the time of a prompt, and that of a decode step."""
    true = scaled(fixed, prompt, sequence)
    model = learned(rate, true, settings())
    assert model.prefill.work == pytest.approx(prompt, rel=0.2)
    num_seqs = 5.0 * rate
    wanted = fixed_seconds(true, num_seqs) + decode_seconds(true, num_seqs, DEMAND.mean_context)
    assert decode_step(model, num_seqs) == pytest.approx(wanted, rel=0.1)
    assert min(model.prefill.samples, model.decode.samples) > 20


def test_without_a_profile_the_shared_step_is_found_from_far() -> None:
    true = scaled(3.0, 3.0, 3.0)
    model = learned(0.5, true, settings(has_profile=False))
    assert model.prefill.work == pytest.approx(3.0, rel=0.3)
    wanted = fixed_seconds(true, 5.0) + decode_seconds(true, 5.0, DEMAND.mean_context)
    assert decode_step(model, 5.0) == pytest.approx(wanted, rel=0.2)


@pytest.mark.parametrize(
    "changes",
    [
        {"is_rolling": True},
        {"missing": ("x",)},
        {"itl_mean": None},
        {"prefill_mean": None},
        {"decode": PoolSignals(desired=2, ready=1, starting=1, running=9.0)},
        {"decode": PoolSignals(desired=1, ready=1, running=9.0, waiting=5.0)},
        {"decode": PoolSignals(desired=1, ready=1, running=0.5)},
        {"arrivals_per_second": 9.0},
    ],
    ids=["rollout", "missing", "no tokens", "no prompts", "starting", "waiting", "idle", "saturated"],
)
def test_what_tells_nothing_changes_nothing(changes: dict[str, Any]) -> None:
    one = next(seen(1.0, scaled(1.5, 1.5, 1.5), 100.0))
    assert update(GroupModel(), one, DEMAND, settings()) != GroupModel()
    assert update(GroupModel(), replace(one, **changes), DEMAND, settings()) == GroupModel()


def mean_gap(rate: float) -> float:
    """Seconds between tokens of one group, in virtual time."""
    done = list(steps(rate, SPEED, 1800.0))
    return sum(step.seconds * step.num_gaps for step in done) / sum(step.num_gaps for step in done)


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.2, 4.0, 9.0])
def test_the_need_counts_what_prompts_add_to_the_time_between_tokens(rate: float) -> None:
    """One group serves 2.2 requests a second, but with 69 ms between tokens in the mean; the model is 5 % off."""
    known, demand = settings(), replace(DEMAND, requests_per_second=rate)
    need = need_of(demand, GroupModel(), known)
    assert mean_gap(rate / need.decode) <= 1.05 * known.slo.itl_seconds
    assert need.unmet is None


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.2])
def test_the_predicted_time_between_tokens_holds_the_prompts(rate: float) -> None:
    known = settings(slo=replace(config().slo, percentile=0.5))
    found = predict(replace(DEMAND, requests_per_second=rate), GroupModel(), known, 0, 1)
    assert found.itl_seconds == pytest.approx(mean_gap(rate), rel=0.2)
