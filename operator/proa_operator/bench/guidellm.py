"""Reads a report of `guidellm run --output kind=json` as our records, to check one tool's numbers with the other's.

Written for guidellm 0.8 (report version 2). guidellm keeps the first and the last token time of a request and no event
between; its inter-token latency is a request's mean from first to last text per token, weighed by tokens over requests.
That is our ITL of evenly placed tokens (`evenly`). It has no TPOT in vLLM's sense; its `time_per_output_token_ms` is
the time from send to last text per token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proa_operator.bench.errors import BenchError
from proa_operator.bench.measure import (
    Slo,
    Summary,
    distribution_ms,
    e2e_seconds,
    itl_seconds,
    summarize,
    tpot_seconds,
    ttft_seconds,
)
from proa_operator.bench.record import RequestRecord, Status

REPORT_VERSION = 2
POINTS = ("p25", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidellmReport:
    """One benchmark of a report. `stated` is guidellm's own `metrics` object, `duration_seconds` its window.

    stated_requests: guidellm's own per-request numbers, beside `records`, ok requests first.
    """

    version: str
    duration_seconds: float
    slo: Slo
    records: tuple[RequestRecord, ...]
    stated_requests: tuple[dict[str, Any], ...]
    stated: dict[str, Any]

    def summary(self) -> Summary:
        """Our numbers from guidellm's records."""
        return summarize(self.records, duration_seconds=self.duration_seconds, slo=self.slo)


def read_guidellm(path: Path) -> GuidellmReport:
    """The first benchmark in a report.

    Raises BenchError for a file that is no guidellm report of the version that we know.
    """
    try:
        report = json.loads(path.read_text())
        if report["metadata"]["version"] != REPORT_VERSION:
            raise BenchError(f"{path} is a report of version {report['metadata']['version']}, not {REPORT_VERSION}")
        return _report(report["metadata"]["guidellm_version"], report["benchmarks"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BenchError(f"cannot read the guidellm report {path}: {error!r}") from error


def _report(version: str, benchmark: dict[str, Any]) -> GuidellmReport:
    groups = benchmark["requests"]
    origin = float(benchmark["start_time"])
    requests = [*groups["successful"], *groups["errored"], *groups["incomplete"]]
    limits = benchmark["config"]["slo"] or {}
    return GuidellmReport(
        version=version,
        duration_seconds=float(benchmark["duration"]),
        slo=Slo(ttft_ms=limits.get("ttft_ms"), itl_ms=limits.get("tpot_ms"), e2e_ms=limits.get("e2el_ms")),
        records=tuple(_record(idx, request, origin) for idx, request in enumerate(requests)),
        stated_requests=tuple(requests),
        stated=benchmark["metrics"],
    )


def _record(request_idx: int, request: dict[str, Any], origin: float) -> RequestRecord:
    times = request["info"]["timings"]
    is_ok = request["info"]["status"] == "completed"
    chunks: tuple[float, ...] = ()
    if times["first_token_iteration"] is not None:
        ends = times["first_token_iteration"] - origin, times["last_token_iteration"] - origin
        chunks = evenly(*ends, request["output_metrics"]["total_tokens"] or times["token_iterations"])
    end_seconds = (times["request_end"] or times["resolve_end"]) - origin
    return RequestRecord(
        request_idx=request_idx,
        status=Status.OK if is_ok else Status.CUT if chunks else Status.FAILED,
        send_seconds=(times["request_start"] or times["resolve_start"]) - origin,
        end_seconds=end_seconds,
        chunk_seconds=chunks,
        finish_seconds=end_seconds,
        input_tokens=request["input_metrics"]["total_tokens"] or 0,
        output_tokens=request["output_metrics"]["total_tokens"] or 0,
        error=None if is_ok else str(request["info"]["error"] or request["info"]["status"])[:200],
    )


def evenly(first_seconds: float, last_seconds: float, num_tokens: int) -> tuple[float, ...]:
    """Times of `num_tokens` tokens at equal distances, both ends included."""
    return tuple(float(at) for at in np.linspace(first_seconds, last_seconds, num=num_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One number both ways; `relative` is |ours - theirs| / |theirs|."""

    name: str
    ours: float
    theirs: float

    @property
    def relative(self) -> float:
        return abs(self.ours - self.theirs) / abs(self.theirs) if self.theirs else float(self.ours != 0)


def deviations(report: GuidellmReport) -> list[Deviation]:
    """Every number that guidellm states and we compute: per request (the worst one), means, percentiles, rates."""
    return [*_per_request(report), *_aggregates(report), *_rates(report)]


def _per_request(report: GuidellmReport) -> list[Deviation]:
    """For each metric the request whose two values differ most."""
    worst: dict[str, Deviation] = {}
    for record, stated in zip(report.records, report.stated_requests, strict=True):
        for found in _request(record, stated) if record.status is Status.OK else ():
            if found.name not in worst or found.relative > worst[found.name].relative:
                worst[found.name] = found
    return list(worst.values())


def _request(record: RequestRecord, stated: dict[str, Any]) -> list[Deviation]:
    ttft_ms, e2e_ms = stated["time_to_first_token_ms"], stated["request_latency"] * 1000
    found = [("TTFT", ttft_seconds(record), ttft_ms), ("E2E", e2e_seconds(record), e2e_ms)]
    tpot, gaps = tpot_seconds(record), itl_seconds(record)
    if tpot is not None and gaps:
        found.append(("ITL", sum(gaps) / len(gaps), stated["inter_token_latency_ms"]))
        found.append(("TPOT", tpot, (e2e_ms - ttft_ms) / (record.output_tokens - 1)))  # vLLM's, from stated values
    return [Deviation(name=f"request {name}", ours=value * 1000, theirs=theirs) for name, value, theirs in found]


def _aggregates(report: GuidellmReport) -> list[Deviation]:
    ok = [record for record in report.records if record.status is Status.OK]
    found = []
    for name, values, key, unit in (
        ("TTFT", [ttft_seconds(r) for r in ok], "time_to_first_token_ms", 1),
        ("ITL", [gap for r in ok for gap in itl_seconds(r)], "inter_token_latency_ms", 1),
        ("E2E", [e2e_seconds(r) for r in ok], "request_latency", 1000),
    ):
        ours = distribution_ms(values, method="inverted_cdf")  # guidellm's rule: a measured value, no interpolation
        assert ours is not None, f"no request ended ok: no {name}"
        stated = report.stated[key]["successful"]
        found.append(Deviation(name=f"{name} mean", ours=ours.mean, theirs=stated["mean"] * unit))
        for point in POINTS:
            theirs = stated["percentiles"][point] * unit
            found.append(Deviation(name=f"{name} {point}", ours=getattr(ours, point), theirs=theirs))
    until_last_text = sum(record.chunk_seconds[-1] - record.send_seconds for record in ok)
    per_token = 1000 * until_last_text / sum(record.output_tokens for record in ok)
    theirs = report.stated["time_per_output_token_ms"]["successful"]["mean"]
    return [*found, Deviation(name="time per output token mean", ours=per_token, theirs=theirs)]


def _rates(report: GuidellmReport) -> list[Deviation]:
    ours, stated = report.summary(), report.stated
    found = [
        ("requests/s", ours.requests_per_second, stated["requests_per_second"]["successful"]["mean"]),
        ("output tokens/s", ours.output_tokens_per_second, stated["output_tokens_per_second"]["successful"]["mean"]),
    ]
    if ours.goodput_per_second is not None and ours.slo_attainment is not None:
        found.append(("goodput", ours.goodput_per_second, stated["request_goodput"]["successful"]["mean"]))
        found.append(("SLO attainment", ours.slo_attainment, stated["slo_attainment"]))
    return [Deviation(name=name, ours=mine, theirs=theirs) for name, mine, theirs in found]
