"""Latency, throughput and goodput from request records, with the semantics of `vllm bench serve`. Pure.

Source: vLLM 0.33 `vllm/benchmarks/serve.py` (calculate_metrics) and `vllm/benchmarks/lib/endpoint_request_func.py`.
Only requests with status ok enter any latency, throughput or goodput number; failed and cut ones are counted.
One difference: vLLM takes every event with a choice for a token, also an event without text (the role event that
some gateways send before the prefill, the event with the finish reason). Here TTFT and ITL take only events that carry
text, reasoning or a tool call; with vLLM's own server both agree. E2E ends with the last event of either kind: the last
tokens may carry no text, and were generated all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from proa_operator.bench.record import RequestRecord, Status

PERCENTILES = (25, 50, 90, 99)


def ttft_seconds(record: RequestRecord) -> float:
    """Time to first token: first text event minus send."""
    return record.chunk_seconds[0] - record.send_seconds


def e2e_seconds(record: RequestRecord) -> float:
    """End-to-end latency: last event of the generation minus send (the usage event that follows carries no token)."""
    assert record.finish_seconds is not None, "an answered request has a last event"
    return record.finish_seconds - record.send_seconds


def itl_seconds(record: RequestRecord) -> list[float]:
    """Inter-token latencies: gaps between text events. One gap per *event*: with multi-token events (speculative
    decoding) it looks worse than TPOT."""
    return [later - earlier for earlier, later in pairwise(record.chunk_seconds)]


def tpot_seconds(record: RequestRecord) -> float | None:
    """Time per output token after the first: (E2E - TTFT) / (output_tokens - 1); None for a single token."""
    if record.output_tokens <= 1:
        return None
    return (e2e_seconds(record) - ttft_seconds(record)) / (record.output_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Milliseconds."""

    count: int
    mean: float
    p25: float
    p50: float
    p90: float
    p99: float


def distribution_ms(
    values_seconds: Sequence[float], method: Literal["linear", "inverted_cdf"] = "linear"
) -> Distribution | None:
    """Summary of values given in seconds; None when there are none.

    Percentiles as `np.percentile` computes them: by linear interpolation as in vLLM, unless `method` says otherwise.
    """
    if not values_seconds:
        return None
    values_ms = np.asarray(values_seconds) * 1000
    p25, p50, p90, p99 = (float(p) for p in np.percentile(values_ms, PERCENTILES, method=method))
    return Distribution(count=len(values_ms), mean=float(values_ms.mean()), p25=p25, p50=p50, p90=p90, p99=p99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits in milliseconds that one request must meet, all that are set; equal to the limit is met.

    `itl_ms` limits the mean gap between a request's text events.
    """

    ttft_ms: float | None = None
    itl_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    @property
    def is_set(self) -> bool:
        return any(limit is not None for limit in (self.ttft_ms, self.itl_ms, self.tpot_ms, self.e2e_ms))

    def is_met(self, record: RequestRecord) -> bool:
        """A request that did not end ok meets nothing; one of a single token has TPOT and ITL 0, as in vLLM."""
        if record.status is not Status.OK:
            return False
        gaps = itl_seconds(record)
        measured = (
            (self.ttft_ms, ttft_seconds(record)),
            (self.itl_ms, sum(gaps) / len(gaps) if gaps else 0.0),
            (self.tpot_ms, tpot_seconds(record) or 0.0),
            (self.e2e_ms, e2e_seconds(record)),
        )
        return all(limit_ms is None or seconds * 1000 <= limit_ms for limit_ms, seconds in measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run. Distributions in ms, rates per second of `duration_seconds` (start of the run to the last answer).

    `goodput_per_second` and `slo_attainment` (met / all requests, failed and cut included) are None without an SLO.
    `late_ms`: how late an open loop sent its requests, None for a closed loop.
    """

    duration_seconds: float
    num_ok: int
    num_failed: int
    num_cut: int
    input_tokens: int
    output_tokens: int
    ttft_ms: Distribution | None
    itl_ms: Distribution | None
    tpot_ms: Distribution | None
    e2e_ms: Distribution | None
    late_ms: Distribution | None
    requests_per_second: float
    input_tokens_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    goodput_per_second: float | None
    slo_attainment: float | None
    errors: tuple[tuple[str, int], ...]

    @property
    def tokens_per_second_per_user(self) -> float | None:
        """What one reader sees while tokens stream: 1 / median TPOT."""
        return 1000 / self.tpot_ms.p50 if self.tpot_ms and self.tpot_ms.p50 else None


def summarize(records: Sequence[RequestRecord], *, duration_seconds: float, slo: Slo) -> Summary:
    """The numbers of one run of `duration_seconds` seconds.

    Raises ValueError when the duration is not positive.
    """
    if duration_seconds <= 0:
        raise ValueError(f"a run of {duration_seconds} seconds has no rates; measure a longer one")
    ok = [record for record in records if record.status is Status.OK]
    num_in, num_out = sum(r.input_tokens for r in ok), sum(r.output_tokens for r in ok)
    num_good = sum(map(slo.is_met, records))
    statuses = Counter(record.status for record in records)
    return Summary(
        duration_seconds=duration_seconds,
        num_ok=len(ok),
        num_failed=statuses[Status.FAILED],
        num_cut=statuses[Status.CUT],
        input_tokens=num_in,
        output_tokens=num_out,
        ttft_ms=distribution_ms([ttft_seconds(r) for r in ok]),
        itl_ms=distribution_ms([gap for r in ok for gap in itl_seconds(r)]),
        tpot_ms=distribution_ms([tpot for r in ok if (tpot := tpot_seconds(r)) is not None]),
        e2e_ms=distribution_ms([e2e_seconds(r) for r in ok]),
        late_ms=distribution_ms([r.send_seconds - r.due_seconds for r in records if r.due_seconds is not None]),
        requests_per_second=len(ok) / duration_seconds,
        input_tokens_per_second=num_in / duration_seconds,
        output_tokens_per_second=num_out / duration_seconds,
        total_tokens_per_second=(num_in + num_out) / duration_seconds,
        goodput_per_second=num_good / duration_seconds if slo.is_set else None,
        slo_attainment=num_good / len(records) if slo.is_set and records else None,
        errors=_error_counts(records),
    )


def _error_counts(records: Iterable[RequestRecord]) -> tuple[tuple[str, int], ...]:
    """Distinct reasons, most frequent first."""
    return tuple(Counter(f"{r.status}: {r.error}" for r in records if r.error).most_common())
