"""The file of a kernel benchmark: whole after every row, also when the run is cut."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton")

from bench.kernels.__main__ import in_time
from bench.kernels.measure import Ceilings, Timing
from bench.kernels.record import line, record
from bench.kernels.rows import Row

CEILINGS = Ceilings(copy_bytes=4e12, bf16_flops=8e14, fp8_flops=16e14, empty_us=1.5)


def row(name: str, **more: float) -> Row:
    return Row(name=name, timing=Timing(us=4.0, again_us=4.5), floor_us=3.0, **more)  # type: ignore[arg-type]


def test_cut_run_keeps_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "run.json"

    def cut() -> Iterator[Row]:
        yield row("first")
        assert [one["name"] for one in json.loads(out.read_text())["rows"]] == ["first"]
        yield row("second")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(out, cut(), {"gate": "", "align": "off by 1"}, CEILINGS)
    told = json.loads(out.read_text())
    assert [one["name"] for one in told["rows"]] == ["first", "second"]
    assert told["rows"][0]["timing"]["us"] == 4.0
    assert told["checks"] == {"gate": "", "align": "off by 1"}
    assert told["ceilings"]["copy_bytes"] == 4e12
    assert {"commit", "command", "device", "torch", "triton"} <= told.keys()


@pytest.mark.parametrize(
    ("measured", "ends"),
    [
        (row("align"), "us  floor      3.00 (0.75)"),
        (row("align", public_us=4.5), "(0.75)  public     4.5  bound    0.0"),
        (Row(name="align", timing=Timing(us=4.0, again_us=4.5), floor_us=3.0, detail="torch 9"), "(0.75)  torch 9"),
    ],
)
def test_line_shows_only_what_the_row_has(measured: Row, ends: str) -> None:
    assert line(measured).endswith(ends)


@pytest.mark.parametrize(
    ("deadline", "names", "says"),
    [(0.0, ["first"], "stopped after first"), (math.inf, ["first", "second"], "complete")],
)
def test_no_row_starts_late(deadline: float, names: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert [one.name for one in in_time(iter([row("first"), row("second")]), deadline)] == names
    assert capsys.readouterr().out.startswith(says)
