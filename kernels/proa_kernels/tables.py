"""What was measured on this GPU, asked before the defaults of arch.py.

A table holds the fastest arm and blocks of the expert layer for the shapes and numbers of tokens that
`proa-kernels tune` ran. Choices are pure functions of a table and a shape: the nearest measured number of pairs counts,
and a shape that was not measured gets arch.py's defaults. `tables_file.py` finds and reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from proa_kernels import arch as defaults
from proa_kernels.arch import Arch, DecodeBlocks, GemmBlocks

Kind = Literal["bf16", "a16w8"]
LayerArm = Literal["decode", "grouped"]
ExpertsArm = Literal["proa", "aiter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """Routed experts of a layer on one GPU; the last `num_shared` experts serve every token.

    `per_token` experts for each token, shared ones included; `hidden` and `width` as in the model.
    """

    num_experts: int
    per_token: int
    hidden: int
    width: int
    num_shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """The fastest way found for `tokens`; us of the whole layer. `aiter_us` is 0 where AITER was not there."""

    tokens: int
    arm: LayerArm
    us: float
    up: DecodeBlocks | None = None
    down: DecodeBlocks | None = None
    first: GemmBlocks | None = None
    second: GemmBlocks | None = None
    aiter_us: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKey:
    """What a launch knows of its layer."""

    num_experts: int
    hidden: int
    width: int
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    shape: LayerShape
    kind: Kind
    rows: tuple[LayerRow, ...]

    @property
    def key(self) -> LayerKey:
        shape = self.shape
        return LayerKey(num_experts=shape.num_experts, hidden=shape.hidden, width=shape.width, kind=self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`kernels` is the fingerprint of the kernel sources, `triton` the version that compiled them."""

    arch: str
    device: str
    kernels: str
    triton: str
    layers: tuple[LayerTable, ...]


def key_of(
    activations: torch.dtype, w_scale: torch.Tensor | None, num_experts: int, hidden: int, width: int
) -> LayerKey | None:
    """The key of a layer; None for products that no table holds: fp8 activations, weights scaled by rows."""
    if activations.itemsize == 1 or (w_scale is not None and w_scale.dim() != 3):
        return None
    return LayerKey(num_experts=num_experts, hidden=hidden, width=width, kind="bf16" if w_scale is None else "a16w8")


def layer_of(table: Table | None, key: LayerKey | None) -> LayerTable | None:
    """The measured layer with this key; None leaves the choice to arch.py."""
    if table is None or key is None:
        return None
    return next((layer for layer in table.layers if layer.key == key), None)


def nearest(layer: LayerTable, num_pairs: int) -> LayerRow | None:
    """The row measured nearest to `num_pairs` token-expert pairs, as a ratio; the smaller one of two as near.

    The launches for few pairs read the weights once for every pair, so their rows serve up to what was measured only:
    beyond, the next larger row counts, or None.
    """

    def serves(row: LayerRow) -> bool:
        return row.arm == "grouped" or num_pairs <= row.tokens * layer.shape.per_token

    return _nearest(filter(serves, layer.rows), layer.shape.per_token, num_pairs)


def _nearest(rows: Iterable[LayerRow], per_token: int, num_pairs: int) -> LayerRow | None:
    def distance(row: LayerRow) -> tuple[float, int]:
        return abs(math.log(max(num_pairs, 1) / (row.tokens * per_token))), row.tokens

    return min(rows, key=distance, default=None)


def layer_plan(layer: LayerTable | None, num_pairs: int, num_experts: int, max_decode_pairs: int) -> int:
    """Rows of a tile of the grouped products, or 0 for the two launches for few pairs."""
    row = None if layer is None else nearest(layer, num_pairs)
    if row is not None:
        return row.first.rows if row.first is not None else 0
    return 0 if num_pairs <= max_decode_pairs else defaults.row_tile(num_pairs, num_experts)


def gemm_blocks(
    layer: LayerTable | None, arch: Arch, rows: int, *, has_scale_blocks: bool
) -> tuple[GemmBlocks, GemmBlocks]:
    """Blocks of both products for row tiles of `rows`: those of the slowest measured row that has this tile."""
    fitting = [row for row in layer.rows if row.first is not None and row.first.rows == rows] if layer else []
    if fitting:
        best = max(fitting, key=lambda row: row.us)
        assert best.first is not None
        assert best.second is not None
        return best.first, best.second
    return defaults.gemm_blocks(arch, rows, has_scale_blocks=has_scale_blocks)


def decode_blocks(
    layer: LayerTable | None, arch: Arch, num_pairs: int, *, is_scaled: bool
) -> tuple[DecodeBlocks, DecodeBlocks]:
    """Blocks of the two launches for few pairs: those of the nearest measured row that has them."""
    few = [row for row in layer.rows if row.arm == "decode"] if layer else []
    row = _nearest(few, layer.shape.per_token, num_pairs) if layer else None
    if row is not None:
        assert row.up is not None
        assert row.down is not None
        return row.up, row.down
    return defaults.decode_blocks(arch, is_scaled=is_scaled)


def experts_arm(arch: Arch, layer: LayerTable | None) -> ExpertsArm:
    """Whose kernels run a layer: weights are laid out for one of them at load time, so one arm serves all sizes.

    AITER on ROCm until a table measured both; then who is faster in the geometric mean of the measured sizes.
    """
    if not arch.name.startswith("gfx"):
        return "proa"
    measured = [row.us / row.aiter_us for row in layer.rows if row.aiter_us > 0] if layer else []
    if not measured:
        return "aiter"
    return "proa" if sum(map(math.log, measured)) < 0 else "aiter"
