"""Ahead-of-time compilation: what the reader of the assembly and the rules catch, and one kernel compiled for real."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from proa_kernels.aot import Case, Resources, problems, read_assembly
from proa_kernels.aot_cases import cases_for
from proa_kernels.arch import GFX942, GFX950, Arch

ROOT = Path(__file__).resolve().parents[2]
ASSEMBLY = """
\tv_mfma_f32_16x16x16_bf16 v[0:3], v[4:5], v[6:7], 0
\tv_mfma_scale_f32_16x16x128_f8f6f4 v[0:3], v[4:11], v[12:15], v[0:3], v16, v17 op_sel_hi:[0,0,0] blgp:4
\tglobal_load_dwordx4 v[8:11], v[12:13], off
\tglobal_load_dword v14, v[12:13], off
\tbuffer_load_dwordx4 v0, s[0:3], 0 offen lds
\tglobal_load_lds_dwordx4 v[0:1], off
  .sgpr_count:     29
  .sgpr_spill_count: 0
  .vgpr_count:     170
  .vgpr_spill_count: 3
"""
GOOD = Resources(
    vgpr=120, sgpr=30, lds_bytes=65536, vgpr_spills=0, sgpr_spills=0, occupancy=4, mfma=8, scaled_mfma=8, wide_loads=4
)  # fmt: skip
CASE = Case(
    name="k", kernel=None, types={}, constants={}, divisible=frozenset(), num_warps=4,
    needs=frozenset({"mfma", "scaled_mfma", "wide_loads"}),
)  # fmt: skip


def test_assembly_is_read():
    found = read_assembly(ASSEMBLY, 4096)
    assert found == Resources(
        vgpr=170,
        sgpr=29,
        lds_bytes=4096,
        vgpr_spills=3,
        sgpr_spills=0,
        occupancy=2,
        mfma=2,
        scaled_mfma=1,
        wide_loads=3,
    )


def test_other_assembly_is_refused():
    with pytest.raises(ValueError, match="vgpr_count"):
        read_assembly("\tmov.u32 %r1, %tid.x;", 0)


@pytest.mark.parametrize(
    ("change", "arch", "messages"),
    [
        ({}, GFX942, []),
        ({"vgpr_spills": 1}, GFX942, ["k on gfx942: spills 1 vector and 0 scalar registers"]),
        ({"sgpr_spills": 2}, GFX950, ["k on gfx950: spills 0 vector and 2 scalar registers"]),
        ({"lds_bytes": 65537}, GFX942, ["k on gfx942: needs 65537 bytes of LDS, the GPU has 65536"]),
        ({"lds_bytes": 65537}, GFX950, []),
        ({"mfma": 0}, GFX950, ["k on gfx950: no MFMA instruction"]),
        ({"scaled_mfma": 0}, GFX950, ["k on gfx950: no MFMA instruction that takes scales"]),
        ({"wide_loads": 0}, GFX950, ["k on gfx950: no 16-byte global load"]),
    ],
)  # fmt: skip
def test_rules(change: dict[str, int], arch: Arch, messages: list[str]):
    assert problems(CASE, arch, replace(GOOD, **change)) == messages


@pytest.mark.parametrize("arch", [GFX942, GFX950], ids=lambda arch: arch.name)
def test_every_case_has_its_own_name_and_products_have_needs(arch: Arch):
    cases = list(cases_for(arch))
    assert len({case.name for case in cases}) == len(cases)
    assert all(case.needs >= {"mfma", "wide_loads"} for case in cases if case.name.startswith("gemm"))
    assert {("scaled_mfma" in case.needs) for case in cases if " x mxfp" in case.name and "bf16" not in case.name} == {
        arch is GFX950
    }


def test_one_kernel_compiles_for_both_without_a_gpu():
    command = [sys.executable, str(ROOT / "tools" / "kernels_aot.py"), "--only", "gate softmax"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(" | ")[1] for line in done.stdout.splitlines()[1:]] == ["gfx942", "gfx950"]
