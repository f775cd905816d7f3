"""Activations on their way into a product: silu(gate) * up, and fp8 with one scale per group, alone or in one launch.

Legend: T tokens, M columns, I = M / 2 where the first half of a row is the gate and the second the up projection;
groups of `group` columns (0: the whole row), the last one may be shorter.

    scale  = max |x| of the group / largest fp8 number, float32, 1 where the group is all zero
    values = x / scale, rounded to fp8 e4m3 (fn, or fnuz on gfx942)

The scale is the smallest that cannot overflow, as in DeepSeek-V3 (arXiv:2412.19437, section 3.3).
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz)


def quantize(
    x_TM: torch.Tensor, dtype: torch.dtype, group: int = 128, *, has_silu: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """fp8 values [T, M] and float32 scales [T, groups]; with `has_silu` of silu(gate) * up, [T, I].

    `x_TM` contiguous 16- or 32-bit floats; `group` a power of two or 0. Raises ValueError for what does not fit.
    """
    _check(x_TM, has_silu)
    check_format(dtype, group)
    values, scales = torch.ops.proa.quantize(x_TM, dtype, group, has_silu)
    return values, scales


def silu_mul(x_TM: torch.Tensor) -> torch.Tensor:
    """silu of the first half of each row times the second half, [T, I] in x's dtype, computed in float32."""
    _check(x_TM, has_silu=True)
    out: torch.Tensor = torch.ops.proa.silu_mul(x_TM)
    return out


def _check(x_TM: torch.Tensor, has_silu: bool) -> None:
    if x_TM.dim() != 2 or x_TM.dtype not in FLOATS or not x_TM.is_contiguous():
        raise ValueError(f"x must be contiguous floats [T, M], not {x_TM.dtype} {tuple(x_TM.shape)}")
    if has_silu and x_TM.shape[1] % 2:
        raise ValueError(f"gate and up need an even number of columns, not {x_TM.shape[1]}")


def check_format(dtype: torch.dtype, group: int) -> None:
    """ValueError for another type than fp8 e4m3, or groups that no kernel takes."""
    if dtype not in FLOAT8:
        raise ValueError(f"fp8 means one of {FLOAT8}, not {dtype}")
    if group < 0 or group & (group - 1):
        raise ValueError(f"groups must be a power of two of columns, or 0 for whole rows, not {group}")


def silu_mul_ref(x_TM: torch.Tensor) -> torch.Tensor:
    """float32, not rounded to x's dtype."""
    gate, up = x_TM.float().chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def quantize_ref(
    x_TM: torch.Tensor, dtype: torch.dtype, group: int, has_silu: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """fp8 values [T, M] and float32 scales [T, M / group], amax over the type's largest; group 0 is the whole row."""
    x32 = silu_mul_ref(x_TM) if has_silu else x_TM.float()
    size = x32.shape[1]
    group = group or size
    padded = torch.nn.functional.pad(x32, (0, -size % group)).view(x32.shape[0], -(-size // group), group)
    scales = padded.abs().amax(-1) / torch.finfo(dtype).max
    scales = torch.where(scales > 0, scales, 1.0)
    values = (padded / scales[..., None]).to(dtype).flatten(1)[:, :size].contiguous()
    return values, scales


@torch.library.custom_op(
    "proa::quantize",
    mutates_args=(),
    schema="(Tensor x, ScalarType dtype, int group, bool has_silu) -> (Tensor, Tensor)",
)
def _quantize_op(x: torch.Tensor, dtype: torch.dtype, group: int, has_silu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if arm_for("group_quant", x.device) == "reference":
        return quantize_ref(x, dtype, group, has_silu)
    from proa_kernels.quant_triton import launch_quant  # the reference needs no Triton

    values, scales = empty_quantized(x, dtype, group, has_silu)
    launch_quant(x, values, scales, group, has_silu=has_silu)
    return values, scales


@_quantize_op.register_fake
def _quantize_fake(
    x: torch.Tensor, dtype: torch.dtype, group: int, has_silu: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return empty_quantized(x, dtype, group, has_silu)


def empty_quantized(
    x: torch.Tensor, dtype: torch.dtype, group: int, has_silu: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and scales of the shapes that `quantize` returns, not written."""
    size = x.shape[1] // 2 if has_silu else x.shape[1]
    num_groups = -(-size // group) if group else 1
    return x.new_empty((x.shape[0], size), dtype=dtype), x.new_empty((x.shape[0], num_groups), dtype=torch.float32)


@torch.library.custom_op("proa::silu_mul", mutates_args=(), schema="(Tensor x) -> Tensor")
def _silu_mul_op(x: torch.Tensor) -> torch.Tensor:
    if arm_for("group_quant", x.device) == "reference":
        return silu_mul_ref(x).to(x.dtype)
    from proa_kernels.quant_triton import launch_silu_mul

    out = x.new_empty((x.shape[0], x.shape[1] // 2))
    launch_silu_mul(x, out)
    return out


@_silu_mul_op.register_fake
def _silu_mul_fake(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // 2))
