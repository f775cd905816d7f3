"""Results as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich import box
from rich.table import Table
from rich.text import Text

from proa_operator.bench.measure import Distribution, Slo, Summary
from proa_operator.bench.session import Measured

LATENCIES = (("TTFT", "ttft_ms"), ("ITL", "itl_ms"), ("TPOT", "tpot_ms"), ("E2E", "e2e_ms"))
MAX_ERRORS = 3
LATE_MS = 50.0  # a burst of a recorded trace takes some milliseconds to write
VERSIONED = ("proa", "httpx", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where numbers come from. `hardware` describes the server's machine, `time` is UTC in ISO format."""

    hardware: str
    command: str
    time: str
    model: str
    seed: int
    text_seed: int
    slo: Slo


def latency_table(measured: Measured) -> Table:
    """Latencies of one run in ms."""
    summary = measured.summary
    title = f"{measured.target.label}: {measured.load.workload.name}, {measured.load}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("ms")
    for name in ("mean", "p25", "p50", "p90", "p99"):
        table.add_column(name, justify="right")
    for label, field in LATENCIES:
        table.add_row(label, *_cells(getattr(summary, field)))
    return table


def _cells(values: Distribution | None) -> list[str]:
    if values is None:
        return ["-"] * 5
    return [f"{value:.2f}" for value in (values.mean, values.p25, values.p50, values.p90, values.p99)]


def counts_text(s: Summary) -> str:
    """What stands below the latencies: how requests ended, rates, goodput, and the most frequent errors."""
    lines = [
        f"{s.num_ok} ok, {s.num_failed} failed, {s.num_cut} cut in the middle; {s.duration_seconds:.1f} s",
        f"tokens/s: {s.input_tokens_per_second:.1f} in, {s.output_tokens_per_second:.1f} out, "
        f"{s.total_tokens_per_second:.1f} total; {s.requests_per_second:.2f} requests/s",
    ]
    if s.goodput_per_second is not None and s.slo_attainment is not None:
        lines.append(f"goodput {s.goodput_per_second:.2f} requests/s; SLO met by {s.slo_attainment:.1%} of requests")
    if s.late_ms is not None and s.late_ms.p99 > LATE_MS:
        lines.append(f"sent late by {s.late_ms.p99:.0f} ms (p99): this machine is too slow for the rate")
    lines += [f"{count} x {error}" for error, count in s.errors[:MAX_ERRORS]]
    return "\n".join(lines)


def comparison_table(results: Sequence[Measured]) -> Table:
    """One row for each run: load, throughput per worker, speed per user, latencies, failures."""
    table = Table(title="All runs (latencies in ms)", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("load", no_wrap=True)
    table.add_column("endpoint", overflow="fold")
    for name in (
        "tok/s\n/worker",
        "tok/s\n/user",
        "TTFT\np50",
        "\np99",
        "TPOT\np50",
        "\np99",
        "good\nreq/s",
        "failed\nor cut",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for measured in results:
        s = measured.summary
        latencies = [_point(d, p) for d in (s.ttft_ms, s.tpot_ms) for p in ("p50", "p99")]
        per_worker = f"{measured.output_tokens_per_second_per_worker:.1f}"
        rates = [per_worker, _number(s.tokens_per_second_per_user)]
        tail = [_number(s.goodput_per_second), str(s.num_failed + s.num_cut)]
        table.add_row(measured.load.short, Text(measured.target.label), *rates, *latencies, *tail)
    return table


def errors_text(results: Sequence[Measured]) -> str:
    """The most frequent reasons of failures over all loads, a line each, by endpoint; empty without failures."""
    counts: dict[str, Counter[str]] = {}
    for measured in results:
        counts.setdefault(measured.target.label, Counter()).update(dict(measured.summary.errors))
    lines = [(label, *found) for label, reasons in counts.items() for found in reasons.most_common(MAX_ERRORS)]
    return "\n".join(f"{label}: {count} x {reason}" for label, reason, count in lines)


def _point(values: Distribution | None, name: str) -> str:
    return _number(getattr(values, name, None))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def as_json(results: Sequence[Measured], provenance: Provenance) -> dict[str, Any]:
    """Everything but the single requests; latencies in ms, durations in seconds."""
    return {
        "tool": "proa bench",
        **asdict(provenance),
        "client_machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in VERSIONED} | {"python": platform.python_version()},
        "runs": [_run(measured) for measured in results],
    }


def _run(measured: Measured) -> dict[str, Any]:
    load = measured.load
    return {
        **asdict(measured.target),
        "workload": load.workload.name,
        "concurrency": load.concurrency,
        "rate_per_second": load.rate,
        "output_tokens_per_second_per_worker": measured.output_tokens_per_second_per_worker,
        "tokens_per_second_per_user": measured.summary.tokens_per_second_per_user,
        **asdict(measured.density),
        **asdict(measured.summary),
    }


def write_json(path: Path, results: Sequence[Measured], provenance: Provenance) -> None:
    """Writes `as_json` indented. Raises OSError."""
    path.write_text(json.dumps(as_json(results, provenance), indent=1) + "\n")


def write_records(path: Path, results: Sequence[Measured]) -> None:
    """Writes every request record, one JSON object a line, with its endpoint and load. Raises OSError."""
    with path.open("w") as file:
        for measured in results:
            where = {"label": measured.target.label, "load": str(measured.load)}
            for record in measured.records:
                file.write(json.dumps(where | asdict(record)) + "\n")


def hardware_of(url: str) -> str:
    """This machine's processor for a loopback endpoint; for any other, the note that it was not told."""
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        return "unknown hardware"
    return f"{os.cpu_count()} x {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
