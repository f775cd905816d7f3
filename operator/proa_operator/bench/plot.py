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
from proa_operator.bench.settings import Target

COLORS = ("#1f5fa8", "#c8501e")  # readable in print and with every common colour blindness
MARKERS = ("o", "s")
TAIL = 0.995  # a picture that reaches the last outlier shows nothing else
PANELS: tuple[tuple[str, Callable[[RequestRecord], list[float]]], ...] = (
    ("TTFT", lambda record: [ttft_seconds(record)]),
    ("ITL", itl_seconds),
    ("E2E", lambda record: [e2e_seconds(record)]),
)


def write_plot(path: Path, results: Sequence[Measured], title: str) -> None:
    """A sweep's frontier when the results hold several loads, else distributions. Raises OSError, ValueError."""
    num_loads = len({measured.load for measured in results})
    figure = frontier(results) if num_loads > 1 else distributions(results)
    figure.suptitle("\n".join([title, *_target_lines(results)]), fontsize=9)
    figure.savefig(path, dpi=150)


def frontier(results: Sequence[Measured]) -> Figure:
    """Output tokens/s per worker (up) against tokens/s per user (right); one line an endpoint, one point a load."""
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes = figure.subplots()
    for style_idx, label in enumerate(_targets(results)):
        points = [m for m in results if m.target.label == label and m.summary.tokens_per_second_per_user]
        x = [float(m.summary.tokens_per_second_per_user or 0) for m in points]
        y = [m.output_tokens_per_second_per_worker for m in points]
        axes.plot(x, y, color=COLORS[style_idx], marker=MARKERS[style_idx], label=label)
        for m, at in zip(points, zip(x, y, strict=True), strict=True):
            _annotate(axes, _point_label(m), at, style_idx)
    axes.set_xlabel("speed for one user: tokens/s (1 / median TPOT)")
    axes.set_ylabel("throughput: output tokens/s per worker")
    axes.set_title("number at a point: requests at a time. Up and right is better.", fontsize=8)
    fastest = max((m.summary.tokens_per_second_per_user or 0 for m in results), default=0)
    _finish(axes, right=1.1 * fastest)
    axes.legend(fontsize=8, loc="lower left")
    return figure


def _annotate(axes: Axes, text: str, at: tuple[float, float], style_idx: int) -> None:
    """Left of the first line's points, right of the second's: the two lines often run close together."""
    shift, align = ((-6, 0), "right") if style_idx == 0 else ((6, 0), "left")
    axes.annotate(
        text, at, xytext=shift, textcoords="offset points", ha=align, va="center", fontsize=8, color=COLORS[style_idx]
    )


def _point_label(measured: Measured) -> str:
    num_bad = measured.summary.num_failed + measured.summary.num_cut
    level = f"{measured.load.concurrency}"
    return f"{level} ({num_bad} failed or cut)" if num_bad else level


def distributions(results: Sequence[Measured]) -> Figure:
    """Cumulative distributions of TTFT, ITL and E2E over the requests that ended ok."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (name, values_of) in zip(panels, PANELS, strict=True):
        end_ms = 0.0
        for style_idx, measured in enumerate(results):
            ok = [record for record in measured.records if record.status is Status.OK]
            values_ms = np.sort([1000 * value for record in ok for value in values_of(record)])
            share = np.arange(1, len(values_ms) + 1) / max(1, len(values_ms))
            axes.step(values_ms, share, where="post", color=COLORS[style_idx], label=_legend(measured))
            end_ms = max(end_ms, *np.quantile(values_ms, [TAIL]).tolist()) if len(values_ms) else end_ms
        axes.set_xlabel(f"{name} (ms)")
        _finish(axes, right=1.1 * end_ms)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=len(COLORS))
    panels[0].set_ylabel(f"share at or below (axes end at {TAIL:.1%})")
    return figure


def _legend(measured: Measured) -> str:
    s = measured.summary
    return f"{measured.target.label}: {s.num_ok} ok, {s.num_failed + s.num_cut} failed or cut"


def _targets(results: Sequence[Measured]) -> dict[str, Target]:
    return {measured.target.label: measured.target for measured in results}


def _target_lines(results: Sequence[Measured]) -> list[str]:
    def workers(target: Target) -> str:
        return "1 worker" if target.num_workers == 1 else f"{target.num_workers} workers"

    return [f"{label}: {workers(target)} at {target.url}" for label, target in _targets(results).items()]


def _finish(axes: Axes, right: float) -> None:
    axes.set_xlim(0, right or 1.0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
