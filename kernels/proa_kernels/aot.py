"""Ahead-of-time compilation for Instinct GPUs on a machine that has none, and what the assembly tells.

The numbers are read from the assembly text that the compiler emits, see "AMDGPU code object metadata" and the
`.amdhsa_` directives in LLVM's AMDGPU guide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from proa_kernels.arch import Arch

Need = Literal["mfma", "scaled_mfma", "wide_loads"]
REGISTERS_PER_LANE = 512
MAX_WAVES_PER_SIMD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kernel with everything that fixes its code. `types` maps arguments to Triton types, `constants` the rest;

    `divisible` are the arguments known to be multiples of 16 (a JIT launch sees that, this compilation cannot).
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    divisible: frozenset[str]
    num_warps: int
    num_stages: int = 2
    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Registers per lane, LDS bytes per block, spilled registers, waves per SIMD, and instruction counts."""

    vgpr: int
    sgpr: int
    lds_bytes: int
    vgpr_spills: int
    sgpr_spills: int
    occupancy: int
    mfma: int
    scaled_mfma: int
    wide_loads: int


def make_case(
    name: str,
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    num_warps: int,
    num_stages: int = 2,
    needs: tuple[Need, ...] = (),
) -> Case:
    """Arguments without a type are int32 pointers if their name says so, else int32."""
    names = [name for name in kernel.arg_names if name not in constants]
    all_types = {name: types.get(name, "*i32" if name.endswith("_ptr") else "i32") for name in names}
    divisible = {name for name in names if name.endswith("_ptr") or name.startswith("size_")}
    return Case(
        name=name,
        kernel=kernel,
        types=all_types,
        constants=constants,
        divisible=frozenset(divisible),
        num_warps=num_warps,
        num_stages=num_stages,
        needs=frozenset(needs),
    )


def compile_case(case: Case, arch: Arch) -> Resources:
    """Compile for `arch`; raises whatever the compiler raises."""
    names = list(case.kernel.arg_names)
    signature = {name: case.types.get(name, "constexpr") for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in case.divisible}
    source = ASTSource(fn=case.kernel, signature=signature, constexprs=dict(case.constants), attrs=attributes)
    compiled = triton.compile(
        source,
        target=GPUTarget("hip", arch.name, arch.wave_size),
        options={"num_warps": case.num_warps, "num_stages": case.num_stages},
    )
    return read_assembly(compiled.asm["amdgcn"], compiled.metadata.shared)


def read_assembly(text: str, lds_bytes: int) -> Resources:
    """LDS is allocated at launch by Triton's runtime, so its size comes from the compiler's metadata instead."""
    vgpr = _directive(text, r"\.vgpr_count:")
    return Resources(
        vgpr=vgpr,
        sgpr=_directive(text, r"\.sgpr_count:"),
        lds_bytes=lds_bytes,
        vgpr_spills=_directive(text, r"\.vgpr_spill_count:"),
        sgpr_spills=_directive(text, r"\.sgpr_spill_count:"),
        occupancy=min(MAX_WAVES_PER_SIMD, REGISTERS_PER_LANE // max(8, -(-vgpr // 8) * 8)),
        mfma=len(re.findall(r"^\s*v_mfma_", text, re.MULTILINE)),
        scaled_mfma=len(re.findall(r"^\s*v_mfma_scale_", text, re.MULTILINE)),
        wide_loads=len(re.findall(r"^\s*(?:global|buffer)_load_(?:lds_)?dwordx4\b", text, re.MULTILINE)),
    )


def _directive(text: str, name: str) -> int:
    found = re.search(rf"{name}\s+(\d+)", text)
    if found is None:
        raise ValueError(f"no {name} in the assembly: not an AMD code object of version 4 or newer")
    return int(found[1])


def problems(case: Case, arch: Arch, found: Resources) -> list[str]:
    """What breaks the rules of the library, one line each; empty when nothing does."""
    where = f"{case.name} on {arch.name}"
    lines = []
    if found.vgpr_spills or found.sgpr_spills:
        lines.append(f"{where}: spills {found.vgpr_spills} vector and {found.sgpr_spills} scalar registers")
    if found.lds_bytes > arch.lds_bytes:
        lines.append(f"{where}: needs {found.lds_bytes} bytes of LDS, the GPU has {arch.lds_bytes}")
    if "mfma" in case.needs and not found.mfma:
        lines.append(f"{where}: no MFMA instruction")
    if "scaled_mfma" in case.needs and not found.scaled_mfma:
        lines.append(f"{where}: no MFMA instruction that takes scales")
    if "wide_loads" in case.needs and not found.wide_loads:
        lines.append(f"{where}: no 16-byte global load")
    return lines
