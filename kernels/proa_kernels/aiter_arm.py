"""Routed experts by AITER, the vendor's kernels for Instinct, behind the inputs of `fused_experts`.

The contract follows `aiter/fused_moe.py` and `aiter/ops/shuffle.py` of github.com/ROCm/aiter at commit
e4048607a535ace3a2b51ded31b1c8c2d45c0879 (2026-08-22):

    fused_moe(hidden_states [T, H], w1 [E, 2I, H], w2 [E, H, I], topk_weight [T, A] float32, topk_ids [T, A] int32,
              expert_mask=None, activation=ActivationType.Silu, quant_type=QuantType.No, doweight_stage1=False,
              w1_scale=None, w2_scale=None, ...) -> [T, H] in the dtype of hidden_states
    shuffle_weight(x, layout=(16, 16)) -> weights of the same shape in the order of the matrix units, marked by the
              attribute `is_shuffled`, which fused_moe reads

Gate rows come before up rows there as here. Scales: QuantType.per_128x128 [E, rows / 128, depth / 128],
QuantType.per_Token [E, rows, 1]; with either, AITER quantises the activations itself, so results carry fp8 rounding of
activations that `fused_experts` does not have. Ids outside the experts are not part of that contract: AITER sorts them
without a bound check, so pairs to be dropped must be turned into weight 0 first.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from proa_kernels.arch import Arch
from proa_kernels.moe_gemm import HALVES

TILE_ROWS, TILE_DEPTH = 16, 32  # of shuffle_weight's layout (16, 16)
# AITER's two-stage products refuse an expert width that is no multiple of their tile: 64 up to 192, else 128.
SMALL_WIDTH = 192
Quant = Literal["No", "per_Token", "per_128x128"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What is called of AITER."""

    fused_moe: Any
    shuffle_weight: Any
    silu: object
    quant_types: dict[str, object]


def names_of_aiter() -> Names:
    """ImportError, AttributeError, OSError or RuntimeError where it is absent, another package or broken."""
    enums = importlib.import_module("aiter")
    return Names(
        fused_moe=importlib.import_module("aiter.fused_moe").fused_moe,
        shuffle_weight=importlib.import_module("aiter.ops.shuffle").shuffle_weight,
        silu=enums.ActivationType.Silu,
        quant_types={name: getattr(enums.QuantType, name) for name in get_args(Quant)},
    )


@functools.cache
def why_no_aiter(arch: Arch) -> str:
    """Empty where AITER is for this GPU and can be imported, which the first call on an Instinct GPU does."""
    if not arch.name.startswith("gfx"):
        return f"AITER has no kernels for {arch.name}"
    try:
        names_of_aiter()
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "aiter":
            return "aiter is not installed"
        return f"aiter cannot be used: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AiterExperts:
    """Weights of one layer in AITER's layout; call it with x [T, H], weights [T, A] float32 and ids [T, A] int32."""

    fused_moe: Any
    activation: object
    quant_type: object
    w13: torch.Tensor
    w2: torch.Tensor
    w13_scale: torch.Tensor | None
    w2_scale: torch.Tensor | None

    @classmethod
    def prepare(
        cls, w13_EFH: torch.Tensor, w2_EHI: torch.Tensor, w13_scale: torch.Tensor | None, w2_scale: torch.Tensor | None
    ) -> AiterExperts:
        """Shuffle the weights once, at load time. ImportError without AITER, ValueError for sizes it does not take."""
        names = names_of_aiter()
        check_layout(w13_EFH, w2_EHI)
        w13, w2 = (names.shuffle_weight(weights, layout=(16, 16)) for weights in (w13_EFH, w2_EHI))
        w13.is_shuffled = w2.is_shuffled = True
        return cls(
            fused_moe=names.fused_moe, activation=names.silu, quant_type=names.quant_types[quant_of(w13_scale)],
            w13=w13, w2=w2, w13_scale=_per_token(w13_scale), w2_scale=_per_token(w2_scale),
        )  # fmt: skip

    def __call__(self, x_TH: torch.Tensor, weights_TA: torch.Tensor, ids_TA: torch.Tensor) -> torch.Tensor:
        """[T, H] in x's dtype; ids outside the experts add nothing. ValueError for other dtypes."""
        if x_TH.dtype not in HALVES or ids_TA.dtype != torch.int32 or weights_TA.dtype != torch.float32:
            raise ValueError(
                f"AITER wants 16-bit activations, int32 ids and float32 weights, not {x_TH.dtype}, {ids_TA.dtype} and "
                f"{weights_TA.dtype}"
            )
        is_kept = (ids_TA >= 0) & (ids_TA < self.w13.shape[0])
        out: torch.Tensor = self.fused_moe(
            x_TH, self.w13, self.w2, torch.where(is_kept, weights_TA, 0.0), torch.where(is_kept, ids_TA, 0),
            activation=self.activation, quant_type=self.quant_type, w1_scale=self.w13_scale, w2_scale=self.w2_scale,
        )  # fmt: skip
        return out


def why_not_aiter(arch: Arch, w13_EFH: torch.Tensor, w2_EHI: torch.Tensor) -> str:
    """Empty where AITER can run these experts on this GPU."""
    if reason := why_no_aiter(arch):
        return reason
    try:
        check_layout(w13_EFH, w2_EHI)
    except ValueError as error:
        return str(error)
    return ""


def check_layout(w13_EFH: torch.Tensor, w2_EHI: torch.Tensor) -> None:
    """ValueError for sizes that AITER's weight layout or its products do not take."""
    for weights in (w13_EFH, w2_EHI):
        if weights.shape[1] % TILE_ROWS or weights.shape[2] % TILE_DEPTH:
            raise ValueError(
                f"AITER lays weights out in tiles of {TILE_ROWS} x {TILE_DEPTH}, not {tuple(weights.shape)}"
            )
    width = w2_EHI.shape[2]
    multiple = 64 if width <= SMALL_WIDTH else 128
    if width % multiple:
        raise ValueError(f"AITER wants an expert width that is a multiple of {multiple}, not {width}")


def quant_of(scale: torch.Tensor | None) -> Quant:
    """The name of AITER's quantisation for scales of rows [E, F], of blocks [E, F / 128, K / 128], or none."""
    return "No" if scale is None else "per_Token" if scale.dim() == 2 else "per_128x128"


def _per_token(scale: torch.Tensor | None) -> torch.Tensor | None:
    """Scales of rows as AITER's [E, F, 1]; scales of blocks as they are."""
    return scale[..., None] if scale is not None and scale.dim() == 2 else scale
