"""`proa-kernels doctor` and the command line: on a CPU the checks run in the interpreter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from proa_kernels import (
    cli,
    doctor,
    doctor_attention,
    doctor_checks,
    doctor_fp8,
    doctor_mxfp,
    doctor_sample,
    mla_decode_sm90,
    moe_gemm_sm90,
    prefill_sm90,
    tables_file,
    tune,
)
from proa_kernels.tables import LayerShape
from proa_kernels.tables_file import TableError
from proa_kernels.tune_arms import NoRightArm

CPU = torch.device("cpu")


def test_every_family_passes_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "sent" / "doctor.json"
    assert cli.main(["doctor", "--correctness-only", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    families = {name.split()[0] for name in report["checks"]}
    assert families >= {
        "align", "gate", "route", "gemm1", "gemm2", "combine", "decode1", "decode2", "rms_norm", "quantize", "silu_mul",
        "rope_write", "latent_rope_write", "gqa_decode", "mla_decode", "gqa_prefill", "kv_copy", "sample",
        "norm_quant", "mx_quantize", "mx_gemm1", "mx_gemm2",
    }  # fmt: skip
    assert set(report["checks"].values()) == {""}
    assert report["timings"] == []
    assert {"device", "arch", "torch", "triton", "kernels", "aiter", "table", "date"} <= set(report)
    assert f"{out}: {len(report['checks'])} checks, 0 wrong" in capsys.readouterr().out


PLANTED = [
    (doctor_checks, "launch_align", "align 17"),
    (doctor_checks, "launch_gate", "gate softmax"),
    (doctor_checks, "launch_combine", "combine"),
    (doctor_fp8, "launch_gemm1", "gemm1 fp8 row tile 16"),
    (doctor_fp8, "launch_gemm2", "gemm2 fp8 row tile 16"),
    (doctor_checks, "launch_rms_norm", "rms_norm 40"),
    (doctor_checks, "launch_quant", "quantize"),
    (doctor_checks, "launch_silu_mul", "silu_mul"),
    (doctor_attention, "launch_rope_write", "rope_write"),
    (doctor_attention, "launch_latent_rope_write", "latent_rope_write"),
    (doctor_attention, "launch_gqa_decode", "gqa_decode"),
    (doctor_attention, "launch_mla_decode", "mla_decode 3 heads"),
    (doctor_attention, "launch_gqa_prefill", "gqa_prefill"),
    (doctor_attention, "launch_kv_copy", "kv_copy"),
    (doctor_sample, "launch_sample", "sample"),
    (doctor_sample, "launch_norm_quant", "norm_quant 128"),
    (doctor_mxfp, "launch_quant_mx", "mx_quantize mxfp4"),
    (doctor_mxfp, "launch_gemm1_mx", "mx_gemm1 mxfp8 x mxfp4 row tile 16"),
    (doctor_mxfp, "launch_gemm2_mx", "mx_gemm2 mxfp8 x mxfp4 row tile 16"),
]


@pytest.mark.parametrize(("module", "launch", "name"), PLANTED, ids=[name for *_, name in PLANTED])
def test_a_kernel_that_writes_nothing_is_wrong(module, launch: str, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, launch, lambda *args, **kwargs: None)
    check = dict(doctor.all_checks(CPU))[name]
    assert doctor.is_wrong(check())


def test_a_gpu_is_asked_for_the_kernels_of_sm90(monkeypatch: pytest.MonkeyPatch):
    """The sizes that GPUs check, on a CPU, with what they launch asked whether it suits."""
    found: dict[str, bool] = {}

    def mla(latent, rope, cache, table, lengths, scale, out) -> None:
        found["mla"] = mla_decode_sm90.suits(latent, rope, cache, table.shape[1] * cache.shape[1])

    def prefill(q, cache, table, *rest) -> None:
        found[f"prefill {q.shape[1] // cache.shape[2]}"] = prefill_sm90.suits(q, cache, table.shape[1] * cache.shape[3])

    def first(*args) -> None:
        found["gemm1"] = args[10] is None and moe_gemm_sm90.suits(args[0], args[1], args[9], args[6])

    def second(*args) -> None:
        found["gemm2"] = args[8] is None and moe_gemm_sm90.suits(args[0], args[1], args[7], args[5])

    monkeypatch.setattr(doctor_attention, "launch_mla_decode", mla)
    monkeypatch.setattr(doctor_attention, "launch_gqa_prefill", prefill)
    monkeypatch.setattr(doctor_fp8, "launch_gemm1", first)
    monkeypatch.setattr(doctor_fp8, "launch_gemm2", second)
    long = dict(doctor_attention.long_checks(CPU, torch.float16))
    fp8 = {check.func: check.args[1:] for _, check in doctor_fp8.checks(torch.device("cuda"))}
    verdicts = [check() for check in long.values()] + [check(CPU, *args) for check, args in fp8.items()]
    assert all(verdicts)  # nobody wrote anything
    assert found == {"mla": True, "prefill 4": True, "prefill 8": True, "gemm1": True, "gemm2": True}


def test_a_router_that_loses_a_part_is_wrong(monkeypatch: pytest.MonkeyPatch):
    rightful = doctor_checks.launch_router
    monkeypatch.setattr(doctor_checks, "launch_router", lambda x, w: rightful(x, w)[1:])
    assert doctor_checks.check_route(CPU).startswith("off by")


def test_a_wrong_kernel_ends_with_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    checks = [("good", lambda: ""), ("bad", lambda: "off by 1.0e+00"), ("absent", lambda: "not built: no hipcc")]
    monkeypatch.setattr(doctor, "all_checks", lambda _: iter(checks))
    out = tmp_path / "doctor.json"
    assert cli.main(["doctor", "--correctness-only", "--out", str(out)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["ok good", "WRONG bad: off by 1.0e+00", "left out absent: not built: no hipcc"]
    assert doctor.wrong_names(json.loads(out.read_text())) == ["bad"]


def test_a_kernel_that_does_not_run_is_wrong_and_hides_no_other(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> str:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(doctor, "all_checks", lambda _: iter([("first", refuse), ("second", lambda: "")]))
    report = doctor.examine(CPU, has_timings=False, say=lambda _: None)
    assert report["checks"] == {"first": "does not run: no such instruction", "second": ""}
    assert doctor.wrong_names(report) == ["first"]


@pytest.mark.parametrize("error", [RuntimeError, TableError])
def test_a_family_that_cannot_be_timed_is_left_out_by_name(error: type[Exception], monkeypatch: pytest.MonkeyPatch):
    def broken_rows(*_):
        raise error("out of memory\nmore")
        yield

    monkeypatch.setattr(doctor, "FAMILIES", (broken_rows,))
    rows, left_out = doctor.timings(CPU, None, lambda _: None)
    assert rows == []
    assert left_out == {"broken_rows": "out of memory"}


def test_a_table_that_is_refused_is_in_the_report(monkeypatch: pytest.MonkeyPatch):
    def refuse(_: torch.device) -> None:
        raise TableError("measured with arch gfx942, not sm90")

    monkeypatch.setattr(doctor, "measured_table", refuse)
    assert doctor.about(CPU)["table"] == "refused: measured with arch gfx942, not sm90"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["doctor"], "no GPU here"),
        (["tune", "--out", "t.json"], "no GPU here"),
        (["tune", "--out", "t.json", "--shape", "gpt-9"], "give positive whole numbers"),
        (["tune", "--out", "t.json", "--shape", "8,2,64"], "--shape 8,2,64: give one of qwen3-30b-a3b"),
        (["tune", "--out", "t.json", "--shape", "2,8,64,64"], "8 experts per token of 2"),
        (["tune", "--out", "t.json", "--rows", "1,0"], "give positive whole numbers"),
        (["tune", "--out", "t.json", "--shape", "8,2,256,96", "--kind", "a16w8"], "multiples of 128, not hidden 256"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("proa-kernels: ")
    assert line in error
    assert error.count("\n") == 1


def test_without_the_interpreter_there_is_nothing_to_check_on(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert cli.main(["doctor", "--correctness-only"]) == 2
    assert "set TRITON_INTERPRET=1" in capsys.readouterr().err


def test_a_shape_that_does_not_fit_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys):
    def refuse(*_: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90 GiB.\nmore")

    monkeypatch.setattr(cli, "gpu", lambda: torch.device("cuda"))
    monkeypatch.setattr(tune, "tune", refuse)
    assert cli.main(["tune", "--out", "t.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_row_that_no_arm_computes_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys):
    def refuse(*_: object) -> int:
        raise NoRightArm("no arm computes it with 8 tokens (no candidate passed its check)")

    monkeypatch.setattr(cli, "gpu", lambda: torch.device("cuda"))
    monkeypatch.setattr(tune, "tune", refuse)
    assert cli.main(["tune", "--out", "t.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("proa-kernels: no arm computes it with 8 tokens")
    assert error.count("\n") == 1


def test_a_gpu_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch, capsys):
    def refuse(_: torch.device) -> None:
        raise RuntimeError("no kernels for GPU gfx90a; supported: sm90")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cli, "arch_of", refuse)
    assert cli.main(["tune", "--out", "t.json"]) == 2
    assert capsys.readouterr().err == "proa-kernels: no kernels for GPU gfx90a; supported: sm90\n"


def test_shapes_by_name_and_by_sizes():
    known = {"one": LayerShape(num_experts=4, per_token=1, hidden=64, width=32)}
    assert cli.parse_shape("one", known) is known["one"]
    assert cli.parse_shape("8, 2,64,32", known) == LayerShape(num_experts=8, per_token=2, hidden=64, width=32)


def test_reading_a_table_needs_no_gpu():
    assert tables_file.measured_table(CPU) is None
