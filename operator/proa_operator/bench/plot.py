"""Pictures: latency distributions of one load, and throughput per worker against speed per user for a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proa_operator.bench.measure import e2e_seconds, itl_seconds, ttft_seconds
from proa_operator.bench.record import RequestRecord, Status
from proa_operator.bench.session import Measured

COLORS = ("#1f5fa8", "#c8501e")  # readable in print and with every common colour blindness
MARKERS = ("o", "s")
PANELS: tuple[tuple[str, Callable[[RequestRecord], list[float]]], ...] = (
    ("TTFT", lambda record: [ttft_seconds(record)]),
    ("ITL", itl_seconds),
    ("E2E", lambda record: [e2e_seconds(record)]),
)


def write_plot(path: Path, results: Sequence[Measured], title: str) -> None:
    """A sweep's frontier when the results hold several loads, else distributions. Raises OSError, ValueError."""
    num_loads = len({measured.load for measured in results})
    figure = frontier(results) if num_loads > 1 else distributions(results)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def frontier(results: Sequence[Measured]) -> Figure:
    """Output tokens/s per worker (up) against tokens/s per user (right); one line an endpoint, one point a load."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for style_idx, label in enumerate(_labels(results)):
        points = [m for m in results if m.target.label == label and m.summary.tokens_per_second_per_user]
        x = [float(m.summary.tokens_per_second_per_user or 0) for m in points]
        y = [m.output_tokens_per_second_per_worker for m in points]
        axes.plot(x, y, color=COLORS[style_idx], marker=MARKERS[style_idx], label=label)
        for m, at in zip(points, zip(x, y, strict=True), strict=True):
            axes.annotate(f"{m.load.concurrency}", at, xytext=(4, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("speed for one user: tokens/s (1 / median TPOT)")
    axes.set_ylabel("throughput: output tokens/s per worker")
    axes.set_title("numbers at points: requests at a time; up and right is better", fontsize=8)
    _finish(axes)
    return figure


def distributions(results: Sequence[Measured]) -> Figure:
    """Cumulative distributions of TTFT, ITL and E2E over the requests that ended ok."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (name, values_of) in zip(panels, PANELS, strict=True):
        for style_idx, measured in enumerate(results):
            ok = [record for record in measured.records if record.status is Status.OK]
            values_ms = np.sort([1000 * value for record in ok for value in values_of(record)])
            share = np.arange(1, len(values_ms) + 1) / max(1, len(values_ms))
            axes.step(values_ms, share, where="post", color=COLORS[style_idx], label=_legend(measured))
        axes.set_xlabel(f"{name} (ms)")
        _finish(axes)
    panels[0].set_ylabel("share of values at or below")
    return figure


def _legend(measured: Measured) -> str:
    s = measured.summary
    return f"{measured.target.label}: {s.num_ok} ok, {s.num_failed + s.num_cut} failed or cut"


def _labels(results: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(measured.target.label for measured in results))


def _finish(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
