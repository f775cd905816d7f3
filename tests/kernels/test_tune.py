"""`proa-kernels tune` in the interpreter: what is timed, what is left out, and the table it writes."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from proa_kernels import tune, tune_arms, tune_checks, tune_problem
from proa_kernels.arch import GFX942, GFX950, MI300A, ROW_TILES, SM90, Arch, DecodeBlocks, GemmBlocks
from proa_kernels.tables import Kind, LayerShape
from proa_kernels.tables_file import Identity, load
from proa_kernels.timing import Ceilings, Launch, Timing
from proa_kernels.tune_candidates import PRODUCTS, decode_candidates, gemm_candidates, label, row_tiles
from proa_kernels.tune_checks import check_decode, check_gemm, decode_name, gemm_name

CPU = torch.device("cpu")
SHAPE = LayerShape(num_experts=5, per_token=2, hidden=256, width=128, num_shared=1)
TILE = GemmBlocks(rows=16, cols=32, depth=64, group=2, num_warps=1, num_stages=1)
WIDER = GemmBlocks(rows=16, cols=64, depth=64, group=2, num_warps=1, num_stages=1)
FEW = DecodeBlocks(cols=32, depth=128, num_warps=1)
CEILINGS = Ceilings(copy_bytes=4e12, bf16_flops=7e14, fp8_flops=1e15, empty_us=1.0)
IDENTITY = Identity(arch="sm90", device="Fake GPU", kernels="abc", triton="3.6.0")


@pytest.fixture
def _small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates for each product, one for few pairs, and a clock that likes later launches better."""
    monkeypatch.setattr(tune_arms, "gemm_candidates", lambda *_: [TILE, WIDER])
    monkeypatch.setattr(tune_arms, "decode_candidates", lambda *_: ([FEW], [FEW]))
    monkeypatch.setattr(tune_arms, "row_tiles", lambda *_: (16,))
    ticks = iter(range(1000, 0, -1))

    def run_each_once(launches: Sequence[Launch], seconds: float = 0.05) -> Timing:
        for launch in launches[:1]:
            launch()
        us = float(next(ticks))
        return Timing(us=us, again_us=us)

    monkeypatch.setattr(tune_arms, "time_launches", run_each_once)


def all_right() -> dict[str, str]:
    products = {gemm_name("bf16", which, one): "" for which in (1, 2) for one in (TILE, WIDER)}
    return products | {decode_name("bf16", which, FEW): "" for which in (1, 2)}


@pytest.mark.usefixtures("_small_world")
def test_the_fastest_right_arm_becomes_the_row():
    problem = tune_problem.Problem.random(SHAPE, "bf16", 3, CPU)
    found = tune_arms.measure(problem, "bf16", all_right(), CEILINGS, None)
    assert found.row.arm == "grouped"  # timed last
    assert found.row.first == found.row.second == TILE  # arch.py's, beside the fastest blocks of each product
    assert set(found.others) == {
        f"decode {label(FEW)}, {label(FEW)}",
        f"grouped {label(WIDER)}, {label(WIDER)}",
        f"grouped {label(TILE)}, {label(TILE)}",
    }
    assert found.excluded == {}
    assert found.floor_us > 0


@pytest.mark.usefixtures("_small_world")
def test_a_wrong_candidate_is_never_timed():
    verdicts = all_right() | {gemm_name("bf16", 1, WIDER): "off by 1.0e+00"}
    problem = tune_problem.Problem.random(SHAPE, "bf16", 3, CPU)
    assert tune_arms.measure(problem, "bf16", verdicts, CEILINGS, None).row.first == TILE


@pytest.mark.usefixtures("_small_world")
def test_a_layer_that_is_wrong_at_full_size_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune_problem, "launch_combine", lambda rows, weights, inverse, out: out.fill_(1.0))
    problem = tune_problem.Problem.random(SHAPE, "bf16", 3, CPU)
    found = tune_arms.measure(problem, "bf16", all_right(), CEILINGS, None)
    assert found.row.arm == "decode"
    assert found.excluded[f"grouped {label(WIDER)}, {label(WIDER)}"].startswith("off by")


@pytest.mark.usefixtures("_small_world")
def test_no_right_arm_is_an_error():
    problem = tune_problem.Problem.random(SHAPE, "bf16", 40, CPU)  # too many pairs for the two launches
    with pytest.raises(tune_arms.NoRightArm, match=r"no arm computes .* with 40 tokens \(no candidate passed"):
        tune_arms.measure(problem, "bf16", {}, CEILINGS, None)


@pytest.mark.usefixtures("_small_world")
def test_the_file_is_a_table_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    verdicts = all_right() | {gemm_name("bf16", 2, TILE): "wrote outside its rows"}
    monkeypatch.setattr(tune, "verdicts", lambda kinds, parts: verdicts)
    monkeypatch.setattr(tune, "measure_ceilings", lambda: CEILINGS)
    monkeypatch.setattr(tune, "identity_of", lambda _: IDENTITY)
    out, said = tmp_path / "new" / "table.json", []
    job = tune.Job(shapes=[SHAPE], kinds=["bf16"], tokens=[1, 3], out=out, seconds=600.0, parts=1)
    assert tune.tune(job, CPU, said.append) == 1
    table = load(out, IDENTITY)
    assert [row.tokens for row in table.layers[0].rows] == [1, 3]
    assert table.layers[0].shape == SHAPE
    measured = json.loads(out.read_text())["measured"]
    assert measured["left_out"] == {gemm_name("bf16", 2, TILE): "wrote outside its rows"}
    assert [row["tokens"] for row in measured["rows"]] == [1, 3]
    assert any(line.startswith("LEFT OUT gemm2 bf16 16x32x64") for line in said)
    assert [path.name for path in out.parent.iterdir()] == ["table.json"]


@pytest.mark.usefixtures("_small_world")
def test_time_over_keeps_the_rows_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tune, "verdicts", lambda kinds, parts: all_right())
    monkeypatch.setattr(tune, "measure_ceilings", lambda: CEILINGS)
    monkeypatch.setattr(tune, "identity_of", lambda _: IDENTITY)
    said: list[str] = []
    job = tune.Job(shapes=[SHAPE], kinds=["bf16"], tokens=[1, 3], out=tmp_path / "t.json", seconds=0.0, parts=1)
    assert tune.tune(job, CPU, said.append) == 0
    assert len(load(tmp_path / "t.json", IDENTITY).layers[0].rows) == 1
    assert said[-1].startswith("stopped: 0 s are over")


@pytest.mark.parametrize("which", [1, 2])
def test_checks_pass_right_kernels_and_catch_wrong_ones(which: tune_checks.Product, monkeypatch: pytest.MonkeyPatch):
    assert check_gemm(CPU, "a16w8", which, TILE, SHAPE, tokens=9) == ""
    assert check_decode(CPU, "a16w8", which, FEW, SHAPE) == ""
    name = ("launch_gemm1", "launch_decode_up") if which == 1 else ("launch_gemm2", "launch_decode_down")
    rightful = [getattr(tune_problem, one) for one in name]

    def scaled(launch):
        def run(*args, **kwargs):
            launch(*args, **kwargs)
            out = next(a for a in reversed(args) if isinstance(a, torch.Tensor) and a.is_floating_point())
            out *= 1.1

        return run

    for one, launch in zip(name, rightful, strict=True):
        monkeypatch.setattr(tune_problem, one, scaled(launch))
    assert check_gemm(CPU, "a16w8", which, TILE, SHAPE, tokens=9).startswith("off by")
    assert check_decode(CPU, "a16w8", which, FEW, SHAPE).startswith("off by")


def test_a_refusal_of_the_compiler_is_a_verdict():
    def refuse() -> str:
        raise RuntimeError("out of resources\nmore")

    assert tune_checks.guarded(refuse) == "does not run: out of resources"


def test_each_verdict_is_out_before_the_next_check(monkeypatch: pytest.MonkeyPatch, capsys):
    def crash() -> str:
        sys.exit(139)

    checks = [("other part", crash), ("good", lambda: ""), ("other part too", crash), ("crashes", crash)]
    monkeypatch.setattr(tune_checks, "checks", lambda *_: iter(checks))
    monkeypatch.setattr(sys, "argv", ["tune_checks", "1", "2", "bf16"])
    with pytest.raises(SystemExit):
        tune_checks.main()
    assert capsys.readouterr().out == '{"good": ""}\n'


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("sys.exit(0)", None),
        ("sys.exit(3)", "ended with code 3"),
        ("signal.alarm(300), signal.pause()", "stopped after 400 s"),
    ],
)
def test_a_part_that_does_not_finish_keeps_what_it_found(ending: str, reason: str | None):
    lines = 'noise\n{"a": ""}\n{"b": "off by 1.0e+00"}\n{"c'
    command = [sys.executable, "-c", f"import signal, sys; print({lines!r}, end='', flush=True); {ending}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        assert select.select([process.stdout], [], [], 120)[0]
        deadline = time.monotonic() + (0 if "stopped" in str(reason) else 120)
        found = tune_checks._verdicts_of(7, process, deadline)
    expected = {"a": "", "b": "off by 1.0e+00"}
    if reason:
        expected["part 7"] = f"unfinished: {reason}, 2 checks done; the rest count as left out"
    assert found == expected


@pytest.mark.usefixtures("_small_world")
def test_unfinished_parts_are_named_and_not_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = all_right() | {"part 3": "unfinished: ended with code -9, 2 checks done; the rest count as left out"}
    monkeypatch.setattr(tune, "verdicts", lambda kinds, parts: found)
    monkeypatch.setattr(tune, "measure_ceilings", lambda: CEILINGS)
    monkeypatch.setattr(tune, "identity_of", lambda _: IDENTITY)
    said: list[str] = []
    job = tune.Job(shapes=[SHAPE], kinds=["bf16"], tokens=[1], out=tmp_path / "t.json", seconds=600.0, parts=1)
    assert tune.tune(job, CPU, said.append) == 0
    assert f"LEFT OUT part 3: {found['part 3']}" in said


@pytest.mark.parametrize("arch", [SM90, GFX942, MI300A, GFX950], ids=lambda arch: f"{arch.name}-{arch.num_xcds}")
@pytest.mark.parametrize("kind", ["bf16", "a16w8"])
@pytest.mark.parametrize("rows", ROW_TILES)
def test_candidates_fit_the_gpu(arch: Arch, kind: Kind, rows: int):
    for which in PRODUCTS:
        options = gemm_candidates(arch, kind, which, rows)
        assert len(options) == len(set(options)) > 1
        assert {one.rows for one in options} == {rows}
        for one in options[1:]:
            weights = one.cols * one.depth * (2 if which == 1 else 1) * (2 if kind == "bf16" else 1)
            assert one.num_stages * (weights + 2 * rows * one.depth) <= arch.lds_bytes
            assert kind == "bf16" or (128 % one.cols == 0 and 128 % one.depth == 0)
    for options in decode_candidates(arch, kind):
        assert len(options) == len(set(options)) > 1
        assert all(kind == "bf16" or one.depth % 128 == 0 for one in options)


@pytest.mark.parametrize(
    ("pairs", "experts", "tiles"), [(8, 128, (16, 32)), (512, 8, (32, 64, 128)), (1 << 20, 8, (64, 128))]
)
def test_row_tiles_are_neighbours(pairs: int, experts: int, tiles: tuple[int, ...]):
    assert row_tiles(pairs, experts) == tiles
