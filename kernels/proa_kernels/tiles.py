"""Triton pieces that several kernels share."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def xcd_tile(program, num_programs, NUM_XCDS: tl.constexpr):
    """Device twin of `arch.xcd_tile`; one die needs no reordering."""
    if NUM_XCDS == 1:
        return program
    each = num_programs // NUM_XCDS
    extra = num_programs % NUM_XCDS
    xcd = program % NUM_XCDS
    return xcd * each + tl.minimum(xcd, extra) + program // NUM_XCDS


@triton.jit
def grouped_tile(tile, num_rows, num_cols, GROUP: tl.constexpr):
    """Row and column of a tile when GROUP row tiles walk the columns together: their column tile stays in L2."""
    per_group = GROUP * num_cols
    first_row = (tile // per_group) * GROUP
    height = tl.minimum(num_rows - first_row, GROUP)
    within = tile % per_group
    return first_row + within % height, within // height
