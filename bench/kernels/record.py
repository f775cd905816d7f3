"""What a run on a GPU leaves behind: one JSON file that is whole after every row, and a line per row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import triton

from bench.kernels.measure import Ceilings
from bench.kernels.rows import Row
from bench.serving.provenance import provenance


def record(path: Path, rows: Iterable[Row], verdicts: Mapping[str, str], ceilings: Ceilings) -> None:
    """Measure `rows` one by one, each printed and in `path` before the next: a run that is cut off keeps what it has.

    `verdicts` are those of the checks, empty where nothing is wrong; `ceilings` the peaks that the floors come from.
    """
    head = {**provenance(), "triton": triton.__version__, "ceilings": asdict(ceilings), "checks": dict(verdicts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    told = []
    for row in rows:
        told.append(asdict(row))
        path.write_text(json.dumps({**head, "rows": told}, indent=1) + "\n", encoding="utf-8")
        print(line(row), flush=True)


def line(row: Row) -> str:
    """Microseconds of both timings and of the floor, the share of the floor, and what the row is compared with."""
    timing = row.timing
    text = (
        f"{row.name:38} {timing.us:9.2f} ({timing.again_us:9.2f}) us"
        f"  floor {row.floor_us:9.2f} ({row.floor_us / timing.us:4.2f})"
    )
    if row.public_us or row.bound_us:
        text += f"  public {row.public_us:7.1f}  bound {row.bound_us:6.1f}"
    return f"{text}  {row.detail}" if row.detail else text
