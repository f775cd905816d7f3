"""Metrics against a slow, separate reading of the definitions, and faults that this reading must catch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from proa_operator.bench import measure
from proa_operator.bench.measure import Slo, Summary, summarize
from proa_operator.bench.record import RequestRecord, Status

SLO = Slo(ttft_ms=300, tpot_ms=45)
SECONDS = 12.5


def some_records() -> list[RequestRecord]:
    """60 requests of all three ends; several tokens in some events; one request of a single token."""
    rng = random.Random(3)
    records = []
    for idx in range(60):
        send = rng.uniform(0, 10)
        chunks, now = [], send + rng.uniform(0.05, 0.5)
        for _ in range(1 if idx == 0 else rng.randint(2, 30)):
            chunks.append(now)
            now += rng.expovariate(25)
        status = Status.CUT if idx % 7 == 3 else Status.FAILED if idx % 11 == 4 else Status.OK
        records.append(
            RequestRecord(
                request_idx=idx,
                status=status,
                send_seconds=send,
                end_seconds=now + 0.1,
                finish_seconds=None if status is Status.FAILED else chunks[-1] + rng.choice([0.0, 0.03]),
                chunk_seconds=() if status is Status.FAILED else tuple(chunks),
                input_tokens=rng.randint(1, 500),
                output_tokens=len(chunks) * (2 if idx % 5 == 1 else 1),
                error=None if status is Status.OK else "why",
            )
        )
    return records


def percentile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between closest ranks, written out."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * q / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def oracle(records: list[RequestRecord], seconds: float, slo: Slo) -> dict[str, float]:
    """The definitions, one request at a time, in plain Python."""
    ttft, itl, tpot, e2e = [], [], [], []
    tokens_in = tokens_out = good = 0
    for r in records:
        if r.status != "ok":
            continue
        first, last = r.chunk_seconds[0] - r.send_seconds, r.finish_seconds - r.send_seconds
        per_token = (last - first) / (r.output_tokens - 1) if r.output_tokens > 1 else 0.0
        ttft.append(first * 1000)
        e2e.append(last * 1000)
        if r.output_tokens > 1:
            tpot.append(per_token * 1000)
        itl += [(r.chunk_seconds[k] - r.chunk_seconds[k - 1]) * 1000 for k in range(1, len(r.chunk_seconds))]
        tokens_in += r.input_tokens
        tokens_out += r.output_tokens
        good += first * 1000 <= slo.ttft_ms and per_token * 1000 <= slo.tpot_ms
    numbers = {
        "ok": len(ttft),
        "failed": sum(r.status == "failed" for r in records),
        "cut": sum(r.status == "cut" for r in records),
        "in/s": tokens_in / seconds,
        "out/s": tokens_out / seconds,
        "total/s": (tokens_in + tokens_out) / seconds,
        "requests/s": len(ttft) / seconds,
        "goodput": good / seconds,
        "attainment": good / len(records),
    }
    for name, values in (("ttft", ttft), ("itl", itl), ("tpot", tpot), ("e2e", e2e)):
        numbers[f"{name} mean"] = math.fsum(values) / len(values)
        numbers |= {f"{name} p{q}": percentile(values, q) for q in (25, 50, 90, 99)}
    return numbers


def flat(summary: Summary) -> dict[str, float]:
    numbers = {
        "ok": summary.num_ok,
        "failed": summary.num_failed,
        "cut": summary.num_cut,
        "in/s": summary.input_tokens_per_second,
        "out/s": summary.output_tokens_per_second,
        "total/s": summary.total_tokens_per_second,
        "requests/s": summary.requests_per_second,
        "goodput": summary.goodput_per_second,
        "attainment": summary.slo_attainment,
    }
    for name in ("ttft", "itl", "tpot", "e2e"):
        values = getattr(summary, f"{name}_ms")
        numbers |= {f"{name} {point}": getattr(values, point) for point in ("mean", "p25", "p50", "p90", "p99")}
    return numbers


def check(records: list[RequestRecord]) -> None:
    assert flat(summarize(records, duration_seconds=SECONDS, slo=SLO)) == pytest.approx(
        oracle(records, SECONDS, SLO), rel=1e-9
    )


def test_every_number_equals_the_written_out_definition():
    check(some_records())


def _percentile_off_by_one(patch: pytest.MonkeyPatch) -> None:
    real = np.percentile
    patch.setattr(measure.np, "percentile", lambda values, q, method: real(values, q, method="higher"))


def _cut_counts_as_ok(patch: pytest.MonkeyPatch) -> None:
    real = measure.summarize

    def mistaken(records: list[RequestRecord], **rest: object) -> Summary:
        return real([replace(r, status=Status.OK) if r.status is Status.CUT else r for r in records], **rest)

    patch.setitem(globals(), "summarize", mistaken)


def _tpot_divides_by_all_tokens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        measure,
        "tpot_seconds",
        lambda r: (r.finish_seconds - r.chunk_seconds[0]) / r.output_tokens if r.output_tokens > 1 else None,
    )


def _itl_divides_by_tokens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(measure, "itl_seconds", lambda r: [measure.tpot_seconds(r)] * (r.output_tokens - 1))


def _ttft_from_start_of_run(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(measure, "ttft_seconds", lambda r: r.chunk_seconds[0])


def _e2e_ends_with_the_response(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(measure, "e2e_seconds", lambda r: r.end_seconds - r.send_seconds)


def _e2e_ends_with_the_text(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(measure, "e2e_seconds", lambda r: r.chunk_seconds[-1] - r.send_seconds)


def _goodput_needs_one_limit_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slo, "is_met", lambda self, r: r.status is Status.OK and measure.ttft_seconds(r) * 1000 <= 300)


@pytest.mark.parametrize(
    "fault",
    [
        _percentile_off_by_one,
        _cut_counts_as_ok,
        _tpot_divides_by_all_tokens,
        _itl_divides_by_tokens,
        _ttft_from_start_of_run,
        _e2e_ends_with_the_response,
        _e2e_ends_with_the_text,
        _goodput_needs_one_limit_only,
    ],
)
def test_a_planted_fault_is_caught(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check(some_records())


ONE = RequestRecord(
    request_idx=0,
    status=Status.OK,
    send_seconds=1.0,
    end_seconds=2.6,
    chunk_seconds=(1.5, 1.75, 2.25),
    finish_seconds=2.5,
    input_tokens=10,
    output_tokens=5,
)


def test_one_request_by_hand():
    assert measure.ttft_seconds(ONE) == 0.5
    assert measure.itl_seconds(ONE) == [0.25, 0.5]  # three events, five tokens
    assert measure.tpot_seconds(ONE) == 0.25
    assert measure.e2e_seconds(ONE) == 1.5


@pytest.mark.parametrize(
    ("slo", "is_met"),
    [
        (Slo(ttft_ms=500, itl_ms=375, tpot_ms=250, e2e_ms=1500), True),  # equal to every limit
        (Slo(ttft_ms=499.9), False),
        (Slo(itl_ms=374.9), False),
        (Slo(tpot_ms=249.9), False),
        (Slo(e2e_ms=1499.9), False),
        (Slo(ttft_ms=500, e2e_ms=1), False),
    ],
)
def test_slo(slo: Slo, is_met: bool):
    assert slo.is_met(ONE) is is_met
    assert not slo.is_met(replace(ONE, status=Status.CUT))


def test_a_single_token_has_no_tpot_and_meets_its_limit():
    single = replace(ONE, chunk_seconds=(1.5,), output_tokens=1)
    assert measure.tpot_seconds(single) is None
    assert Slo(tpot_ms=1, itl_ms=1).is_met(single)


def test_without_an_answer_there_are_counts_but_no_latencies():
    failed = replace(ONE, status=Status.FAILED, chunk_seconds=(), error="HTTP 503: busy")
    summary = summarize([failed, failed], duration_seconds=2.0, slo=Slo())
    assert (summary.num_failed, summary.ttft_ms, summary.goodput_per_second) == (2, None, None)
    assert summary.errors == (("failed: HTTP 503: busy", 2),)
    assert summary.tokens_per_second_per_user is None


def test_a_run_without_duration_is_refused():
    with pytest.raises(ValueError, match="no rates"):
        summarize([ONE], duration_seconds=0.0, slo=Slo())
