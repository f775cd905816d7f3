"""Every kernel as it is launched on Instinct GPUs: what `make kernels-aot` compiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proa_kernels.aot import Case, Need, make_case
from proa_kernels.aot_decode_cases import decode_cases
from proa_kernels.aot_mxfp_cases import mx_cases
from proa_kernels.arch import ROW_TILES, Arch, GemmBlocks, align_plan, decode_blocks, gemm_blocks
from proa_kernels.gate_route_triton import COLS, DEPTH, NUM_SPLITS, ROWS, router_kernel
from proa_kernels.gate_triton import gate_kernel
from proa_kernels.moe_align_triton import (
    COUNT_CHUNK,
    MATRIX_ROWS,
    align_count_kernel,
    align_direct_kernel,
    align_place_kernel,
    pad_width,
)
from proa_kernels.moe_decode_triton import decode_constants, decode_down_kernel, decode_up_kernel
from proa_kernels.moe_gemm_triton import combine_kernel, gemm1_kernel, gemm2_kernel

NUM_EXPERTS = 256
FP8 = {"gfx942": "fp8e4b8", "gfx950": "fp8e4nv"}


def cases_for(arch: Arch) -> Iterator[Case]:
    yield from _align_cases(arch)
    yield from _gate_cases()
    yield from _gemm_cases(arch)
    yield make_case("combine", combine_kernel, {"rows_ptr": "*bf16", "weights_ptr": "*fp32", "out_ptr": "*bf16"},
                {"PER_TOKEN": 8, "COLS": 2048}, 4, needs=("wide_loads",))  # fmt: skip
    yield from mx_cases(arch)
    yield from _few_pairs_cases(arch)
    yield from decode_cases(arch)


def _align_cases(arch: Arch) -> Iterator[Case]:
    for tokens in (16, 256, 1024, 16384):
        plan = align_plan(tokens * 8, arch)
        common = {"TILE": plan.tile, "EP": NUM_EXPERTS, "HAS_MAP": False, "HAS_TOKENS": False}
        padded = common | {"M": 64, "WIDTH": pad_width(64, NUM_EXPERTS, plan.num_warps * arch.wave_size)}
        if plan.num_launches == 1:
            num_ids = plan.num_programs * plan.tile
            constants = padded | {"NP": num_ids, "CHUNK": min(num_ids, COUNT_CHUNK)}
            yield make_case(f"align_direct {num_ids} ids", align_direct_kernel, {}, constants, plan.num_warps)
            continue
        yield make_case(f"align_count tile {plan.tile}", align_count_kernel, {}, common, plan.num_warps)
        constants = padded | {"ROWS": MATRIX_ROWS}
        yield make_case(f"align_place tile {plan.tile}", align_place_kernel, {}, constants, plan.num_warps)


def _gate_cases() -> Iterator[Case]:
    plain = {
        "ROWS": 4,
        "SP": NUM_EXPERTS,
        "SOFTMAX": True,
        "HAS_BIAS": False,
        "NARROW": True,
        "GP": 1,
        "TOP_G": 1,
        "TOP2": False,
    }
    grouped = {
        "ROWS": 1,
        "SP": NUM_EXPERTS // 8,
        "SOFTMAX": False,
        "HAS_BIAS": True,
        "NARROW": False,
        "GP": 8,
        "TOP_G": 4,
        "TOP2": True,
    }
    shape = {"SHARED": 0, "SPLITS": 1, "ROUND": False, "TOP_K": 8, "KP": 8, "RENORM": True}
    types = {"bias_ptr": "*fp32", "weights_ptr": "*fp32", "scale": "fp32"}
    yield make_case("gate softmax bf16", gate_kernel, types | {"logits_ptr": "*bf16"}, shape | plain, 1)
    yield make_case("gate sigmoid groups fp32", gate_kernel, types | {"logits_ptr": "*fp32"}, shape | grouped, 1)
    parts = {"SPLITS": NUM_SPLITS, "ROUND": True, "ROWS": 1, "SHARED": 2, "KP": 16}
    yield make_case("gate of parts", gate_kernel, types | {"logits_ptr": "*fp32"}, shape | plain | parts, 1)
    for name, w_type in (("bf16", "*bf16"), ("fp32", "*fp32")):
        types = {"x_ptr": "*bf16", "w_ptr": w_type, "parts_ptr": "*fp32"}
        constants = {"ROWS": ROWS, "COLS": COLS, "DEPTH": DEPTH, "FLOAT32": name == "fp32", "PRECISION": "ieee"}
        needs: tuple[Need, ...] = ("mfma", "wide_loads")
        yield make_case(f"router {name}", router_kernel, types, constants, 2, needs=needs)


def _gemm_cases(arch: Arch) -> Iterator[Case]:
    fp8 = "*" + FP8[arch.name]
    kinds = (
        ("bf16", 0, False, "*bf16", "*bf16"),
        ("fp8", 1, False, fp8, fp8),
        ("fp8 rowwise", 1, True, fp8, fp8),
        ("a16w8", 2, False, "*bf16", fp8),
    )
    for name, scales, is_rowwise, x_type, w_type in kinds:
        tiles = [gemm_blocks(arch, rows, has_scale_blocks=scales > 0 and not is_rowwise) for rows in ROW_TILES]
        for blocks, _ in tiles:
            types = {"x_ptr": x_type, "w_ptr": w_type}
            yield _gemm_case(f"gemm1 {name}", gemm1_kernel, types, scales, is_rowwise, blocks, arch)
        for _, blocks in tiles:
            types = {"h_ptr": x_type, "w_ptr": w_type}
            yield _gemm_case(f"gemm2 {name}", gemm2_kernel, types, scales, is_rowwise, blocks, arch)


def _few_pairs_cases(arch: Arch) -> Iterator[Case]:
    fp8 = "*" + FP8[arch.name]
    floats = dict.fromkeys(("ws_ptr", "weights_ptr"), "*fp32")
    for name, is_scaled, w_type in (("bf16", False, "*bf16"), ("a16w8", True, fp8)):
        up, down = decode_blocks(arch, is_scaled=is_scaled)
        types = floats | {"x_ptr": "*bf16", "out_ptr": "*bf16", "h_ptr": "*fp32", "w_ptr": w_type}
        constants = decode_constants(up, arch, is_scaled=is_scaled)
        yield make_case(f"decode_up {name}", decode_up_kernel, types, constants, up.num_warps, needs=("wide_loads",))
        constants = {"AP": 8} | decode_constants(down, arch, is_scaled=is_scaled)
        yield make_case(
            f"decode_down {name}", decode_down_kernel, types, constants, down.num_warps, needs=("wide_loads",)
        )


def _gemm_case(
    name: str, kernel: Any, types: dict[str, str], scales: int, is_rowwise: bool, blocks: GemmBlocks, arch: Arch
) -> Case:
    constants = {
        "ROWS": blocks.rows, "COLS": blocks.cols, "DEPTH": blocks.depth, "GROUP": blocks.group,
        "NUM_XCDS": arch.num_xcds, "SCALES": scales, "ROWWISE": is_rowwise, "EVEN": True, "TMA": False,
    }  # fmt: skip
    floats = {"xs_ptr": "*fp32", "hs_ptr": "*fp32", "ws_ptr": "*fp32", "out_ptr": "*bf16"}
    full_name = f"{name} {blocks.rows}x{blocks.cols}x{blocks.depth}"
    needs: tuple[Need, ...] = ("mfma", "wide_loads")
    return make_case(full_name, kernel, floats | types, constants, blocks.num_warps, blocks.num_stages, needs)
