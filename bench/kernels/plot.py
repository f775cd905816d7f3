"""A record of the kernels' benchmarks as a picture: the share of its floor that each row reaches, and its bound.

    python -m bench.kernels --redraw

Records of sweeps hold no floors and get no picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Record = dict[str, Any]
COLORS = {None: "#7a8ca3", True: "#3c8c40", False: "#c8501e"}  # no bound; reached; missed
BAR_INCHES, HEAD_INCHES, WIDTH_INCHES = 0.17, 1.3, 9.0
DPI = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row of a record, us; `bound_us` and `public_us` are 0 where there is none."""

    name: str
    us: float
    floor_us: float
    bound_us: float = 0.0
    public_us: float = 0.0

    @property
    def is_reached(self) -> bool | None:
        """None without a bound."""
        return self.us <= self.bound_us if self.bound_us else None


def redraw(folder: Path) -> tuple[list[Path], list[Path]]:
    """Draw every JSON file of `folder` beside it; returns the pictures, and the files that hold no floors."""
    drawn, left_out = [], []
    for path in sorted(folder.glob("*.json")):
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        if found := list(bars(record)):
            drawn.append(path.with_suffix(".png"))
            draw(drawn[-1], f"{path.name}: {record['device']}, {record['date'][:10]}", found)
        else:
            left_out.append(path)
    return drawn, left_out


def bars(record: Record) -> Iterator[Bar]:
    """Rows with a floor, in the record's order, of each kind of record that is committed here."""
    for row in record.get("rows", ()):
        if "timing" in row:
            yield Bar(name=row["name"], us=row["timing"]["us"], floor_us=row["floor_us"], bound_us=row["bound_us"],
                      public_us=row["public_us"])  # fmt: skip
        elif "floor_us" in row:
            name = f"{row['shape']} {row['tokens']} tokens, {row['arm']}"
            yield Bar(name=name, us=row["us"], floor_us=row["floor_us"])
    for row in record.get("timings", ()):  # the doctor's
        yield Bar(name=row["name"], us=row["us"], floor_us=row["floor_us"])
    for row in record.get("results", ()):  # a whole step, which must stay below vLLM's
        yield Bar(name=f"{row['shape']} batch {row['batch']}", us=1e3 * row["ms_per_step"],
                  floor_us=1e3 * row["floor_ms"], bound_us=1e3 * row["vllm_h200_ms"])  # fmt: skip


def missed(found: list[Bar]) -> list[str]:
    return [bar.name for bar in found if bar.is_reached is False]


def draw(path: Path, title: str, found: list[Bar]) -> None:
    """One horizontal bar for each row, first row on top; names of rows that miss their bound are coloured too."""
    size = (WIDTH_INCHES, HEAD_INCHES + BAR_INCHES * len(found))
    axes = (figure := Figure(figsize=size, layout="constrained")).subplots()
    places = range(len(found))
    shares = [bar.floor_us / bar.us for bar in found]
    axes.barh(places, shares, color=[COLORS[bar.is_reached] for bar in found], height=0.75)
    _mark(axes, found, "bound_us", "|", "bound (a figure of an H200)")
    _mark(axes, found, "public_us", "x", "public best (a figure of an H200)")
    for place, bar in enumerate(found):
        text = f"{bar.us:.4g} us" + (" missed" if bar.is_reached is False else "")
        end = bar.floor_us / min(filter(None, (bar.us, bar.bound_us, bar.public_us)))
        axes.annotate(text, (end, place), (6, 0), textcoords="offset points", va="center", fontsize=6)
    axes.set_yticks(places, [bar.name for bar in found], fontsize=6)
    for label, bar in zip(axes.get_yticklabels(), found, strict=True):
        label.set_color(COLORS[False] if bar.is_reached is False else "black")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlim(0, max(1.15, *shares) + 0.1)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("floor over measured time (1: as fast as bytes and FLOP allow on that card)", fontsize=8)
    num_bounds = sum(bar.is_reached is not None for bar in found)
    axes.set_title(f"{title}; {num_bounds - len(missed(found))} of {num_bounds} bounds reached", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    if num_bounds or any(bar.public_us for bar in found):
        figure.legend(fontsize=7, loc="outside lower right", ncols=2)
    figure.savefig(path, dpi=DPI)


def _mark(axes: Any, found: list[Bar], field: str, marker: str, label: str) -> None:
    """Where the share would be at the time in `field`."""
    places = [(place, bar.floor_us / getattr(bar, field)) for place, bar in enumerate(found) if getattr(bar, field)]
    if places:
        rows, shares = zip(*places, strict=True)
        axes.scatter(shares, rows, marker=marker, color="black", s=28, linewidths=1.2, zorder=3, label=label)
