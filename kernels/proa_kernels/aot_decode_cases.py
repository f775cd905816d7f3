"""Kernels around the products of a decode step as launched on Instinct GPUs: part of `aot_cases.cases_for`."""

from __future__ import annotations

from collections.abc import Iterator

from proa_kernels.aot import Case, Need, make_case
from proa_kernels.arch import Arch
from proa_kernels.decode_splits import GQA_TILE, MERGE_COLS, MLA_FEW_HEADS, MLA_MANY_HEADS, DecodeTile, merge_kernel
from proa_kernels.gqa_decode_triton import gqa_decode_kernel
from proa_kernels.kv_copy_triton import COLS, kv_copy_kernel
from proa_kernels.mla_decode_triton import mla_decode_kernel
from proa_kernels.norm_quant_triton import norm_quant_kernel
from proa_kernels.norm_triton import rms_norm_kernel
from proa_kernels.prefill_triton import PREFILL_TILE, gqa_prefill_kernel
from proa_kernels.quant_triton import quant_kernel, silu_mul_kernel
from proa_kernels.rope_triton import latent_rope_write_kernel, rope_write_kernel
from proa_kernels.sample_triton import COLS as SAMPLE_COLS
from proa_kernels.sample_triton import sample_constants, sample_kernel, sample_warps

PAGE = 32
PLACES = {
    "rotation_ptr": "*fp32", "pages_ptr": "*i64", "positions_ptr": "*i64", "cache_ptr": "*bf16", "q_ptr": "*bf16",
    "norm_ptr": "*bf16", "eps": "fp32",
}  # fmt: skip
LISTS = {
    "cache_ptr": "*bf16", "q_ptr": "*bf16", "q_rot_ptr": "*bf16", "out_ptr": "*bf16", "table_ptr": "*i64",
    "lengths_ptr": "*i64", "sums_ptr": "*fp32", "logs_ptr": "*fp32", "scale": "fp32",
}  # fmt: skip


def decode_cases(arch: Arch) -> Iterator[Case]:
    yield from _norm_cases()
    yield from _rope_cases()
    yield from _attention_cases(arch)
    yield from _prefill_cases(arch)
    yield from _copy_cases()
    yield from _quant_cases(arch)
    yield from _sample_cases(arch)


def _norm_cases() -> Iterator[Case]:
    types = dict.fromkeys(("x_ptr", "residual_ptr", "weight_ptr", "out_ptr", "sum_ptr"), "*bf16") | {"eps": "fp32"}
    for cols, num_warps in ((2048, 4), (8192, 8)):
        constants = {"COLS": cols, "HAS_RESIDUAL": True}
        name = f"add_rms_norm {cols}"
        yield make_case(name, rms_norm_kernel, types, constants, num_warps, needs=("wide_loads",))


def _rope_cases() -> Iterator[Case]:
    shape = {"H": 32, "K": 4, "D": 128, "DP": 128, "PAGE": PAGE, "HAS_NORM": True}
    for heads, num_warps in ((1, 1), (8, 4)):
        types = PLACES | {"qkv_ptr": "*bf16"}
        constants = shape | {"HEADS": heads}
        yield make_case(f"rope_write {heads} heads", rope_write_kernel, types, constants, num_warps)
    latent = {"H": 16, "D": 192, "R": 512, "ROT": 64, "RP": 512, "OP": 64, "PAGE": PAGE, "HEADS": 8}
    types = PLACES | {"latent_ptr": "*bf16"}
    yield make_case("latent_rope_write", latent_rope_write_kernel, types, latent, 1)


def _attention_cases(arch: Arch) -> Iterator[Case]:
    gqa = {"K": 4, "G": 8, "D": 128, "DP": 128, "PAGE": PAGE}
    mla = {"H": 16, "R": 512, "ROT": 64, "RP": 512, "OP": 64, "PAGE": PAGE}
    for is_split in (False, True):
        kind = "split" if is_split else "whole"
        tile = GQA_TILE[arch.name]
        yield make_case(
            f"gqa_decode {kind}", gqa_decode_kernel, LISTS, gqa | _tiled(tile, is_split), tile.num_warps,
            tile.num_stages, ("mfma", "wide_loads"),
        )  # fmt: skip
        for heads, tile in ((16, MLA_FEW_HEADS[arch.name]), (128, MLA_MANY_HEADS[arch.name])):
            yield make_case(
                f"mla_decode {heads} heads {kind}", mla_decode_kernel, LISTS,
                mla | {"H": heads} | _tiled(tile, is_split), tile.num_warps, tile.num_stages, ("mfma", "wide_loads"),
            )  # fmt: skip
    parts = {"parts_ptr": "*fp32", "logs_ptr": "*fp32", "out_ptr": "*bf16"}
    for width in (128, 512):
        constants = {"W": width, "WP": MERGE_COLS, "ZP": 8}
        yield make_case(f"merge {width}", merge_kernel, parts, constants, 2, needs=("wide_loads",))


def _prefill_cases(arch: Arch) -> Iterator[Case]:
    tile = PREFILL_TILE[arch.name]
    types = LISTS | {"starts_ptr": "*i64", "prefixes_ptr": "*i64"}
    constants = {"K": 4, "G": 8, "D": 128, "DP": 128, "PAGE": PAGE, "ROWS": tile.rows, "KEYS": tile.keys}
    needs: tuple[Need, ...] = ("mfma", "wide_loads")
    yield make_case("gqa_prefill", gqa_prefill_kernel, types, constants, tile.num_warps, tile.num_stages, needs)


def _quant_cases(arch: Arch) -> Iterator[Case]:
    fp8 = "*fp8e4b8" if arch.name == "gfx942" else "*fp8e4nv"
    types = {"x_ptr": "*bf16", "out_ptr": "*bf16", "values_ptr": fp8, "scales_ptr": "*fp32", "largest": "fp32"}
    yield make_case("silu_mul", silu_mul_kernel, types, {"COLS": 2048}, 4, needs=("wide_loads",))
    for name, group, has_silu in (("128", 128, False), ("128 silu", 128, True), ("row", 2048, False)):
        constants = {"COLS": 2048, "GROUP": group, "HAS_SILU": has_silu}
        yield make_case(f"quant {name}", quant_kernel, types, constants, 4, needs=("wide_loads",))
    norm_types = types | dict.fromkeys(("residual_ptr", "weight_ptr", "sum_ptr"), "*bf16") | {"eps": "fp32"}
    for name, cols, group in (("128", 2048, 128), ("row", 2048, 2048), ("128", 8192, 128), ("row", 8192, 8192)):
        constants = {"COLS": cols, "GROUP": group, "HAS_RESIDUAL": True}
        num_warps = min(8, cols // 512)
        yield make_case(
            f"add_norm_quant {name} {cols}", norm_quant_kernel, norm_types, constants, num_warps, needs=("wide_loads",)
        )


def _sample_cases(arch: Arch) -> Iterator[Case]:
    types = {
        "temperature_ptr": "*fp32", "reach_ptr": "*fp64", "top_p_ptr": "*fp64", "seed_ptr": "*i64",
        "count_ptr": "*i64", "tokens_ptr": "*i64", "peaks_ptr": "*fp32",
    }  # fmt: skip
    constants, num_warps = sample_constants(SAMPLE_COLS), sample_warps(SAMPLE_COLS, arch)
    for name in ("bf16", "fp32"):
        logits = {"logits_ptr": "*" + name}
        yield make_case(f"sample {name}", sample_kernel, types | logits, constants, num_warps, needs=("wide_loads",))


def _copy_cases() -> Iterator[Case]:
    types = {"pool_ptr": "*bf16", "packed_ptr": "*bf16", "blocks_ptr": "*i64"}
    shape = {"B": 1, "C": 96, "RUN": 32 * 128, "ELEMENTS": 96 * 32 * 128, "COLS": COLS}
    for name, is_gather in (("kv_gather", True), ("kv_scatter", False)):
        yield make_case(name, kv_copy_kernel, types, shape | {"GATHER": is_gather}, 4, needs=("wide_loads",))


def _tiled(tile: DecodeTile, is_split: bool) -> dict[str, int | bool]:
    return {"ROWS": tile.rows, "KEYS": tile.keys, "IS_SPLIT": is_split}
