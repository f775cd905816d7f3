"""Pictures of the kernels' benchmarks: what becomes a bar, what misses its bound, and a small record drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.kernels.plot import Bar, bars, missed, redraw

FOLDER = Path(__file__).resolve().parents[2] / "bench" / "kernels"
SWEEPS = {"decode_layer_sweep_h200.json", "sm90_variants_h200.json", "tune_h200.json"}


def row(name: str, us: float, bound_us: float) -> dict[str, object]:
    timing = {"us": us, "again_us": us}
    return {"name": name, "timing": timing, "floor_us": 1.0, "bound_us": bound_us, "public_us": 4.0, "detail": ""}


RECORD = {
    "device": "some GPU", "date": "2026-11-24T00:00:00+00:00",
    "rows": [row("fast", 2.0, 2.5), row("slow", 3.0, 2.5), row("free", 9.0, 0.0)],
}  # fmt: skip


def test_rows_become_bars_and_the_slow_one_is_missed():
    found = list(bars(RECORD))
    assert found[0] == Bar(name="fast", us=2.0, floor_us=1.0, bound_us=2.5, public_us=4.0)
    assert [bar.is_reached for bar in found] == [True, False, None]
    assert missed(found) == ["slow"]


@pytest.mark.parametrize(
    ("record", "bar"),
    [
        (
            {"rows": [{"shape": "s", "tokens": 8, "arm": "decode", "us": 4.0, "floor_us": 1.0}]},
            Bar(name="s 8 tokens, decode", us=4.0, floor_us=1.0),
        ),
        ({"timings": [{"name": "copy", "us": 4.0, "floor_us": 1.0}]}, Bar(name="copy", us=4.0, floor_us=1.0)),
        (
            {"results": [{"shape": "s", "batch": 8, "ms_per_step": 2.0, "floor_ms": 1.0, "vllm_h200_ms": 3.0}]},
            Bar(name="s batch 8", us=2000.0, floor_us=1000.0, bound_us=3000.0),
        ),
    ],
)
def test_other_records(record: dict[str, object], bar: Bar):
    assert list(bars(record)) == [bar]


def test_a_small_record_is_drawn_and_a_sweep_is_named(tmp_path: Path):
    (tmp_path / "small.json").write_text(json.dumps(RECORD))
    (tmp_path / "sweep.json").write_text(json.dumps({"rows": [{"us": 1.0}]}))
    drawn, left_out = redraw(tmp_path)
    assert (drawn, left_out) == ([tmp_path / "small.png"], [tmp_path / "sweep.json"])
    assert drawn[0].read_bytes().startswith(b"\x89PNG")


def test_every_committed_record_but_the_sweeps_has_its_picture():
    records = sorted(FOLDER.glob("*.json"))
    without = {path.name for path in records if not list(bars(json.loads(path.read_text())))}
    assert without == SWEEPS
    assert {path.stem for path in FOLDER.glob("*.png")} == {path.stem for path in records if path.name not in without}
