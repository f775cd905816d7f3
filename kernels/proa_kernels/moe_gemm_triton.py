"""Grouped products of the experts in Triton. Legend as in moe_gemm.py; one program computes one tile [ROWS, COLS].

Tiles of row blocks past the padded total end at once, so the grid can be sized from shapes alone. Padding rows compute
on some valid token: their results are never read, and unmasked loads are faster. With TMA (sm90) weights arrive through
a tensor descriptor instead of pointers. SCALES: 0 none, 1 fp8 activations and weights, 2 fp8 weights only. Scales are
float32, one for each 128 x 128 block of weights and for each 128 columns of an activation row; or, ROWWISE, one for
each row of weights and of activations, applied once after the sum.

Scaling multiplies row and block scale first, then adds with one FMA per element and step of the depth; a product per
factor would take three operations on each element.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import triton
import triton.language as tl

from proa_kernels.tiles import grouped_tile, xcd_tile

SCALE_GROUP = tl.constexpr(128)


@triton.jit
def _locate(totals_ptr, num_cols, ROWS: tl.constexpr, GROUP: tl.constexpr, NUM_XCDS: tl.constexpr):
    """Row tile, column tile, and whether this program has one."""
    num_rows = tl.load(totals_ptr) // ROWS
    program = tl.program_id(0)
    live = num_rows * num_cols
    tile = xcd_tile(program, live, NUM_XCDS)
    row, col = grouped_tile(tl.minimum(tile, live - 1), tl.maximum(num_rows, 1), num_cols, GROUP)
    return row, col, program < live


@triton.jit
def _weights(
    w_ptr, row, depth, size_k, row_limit, COLS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr
):
    """Weight rows row..row+COLS of one depth step as [DEPTH, COLS]; rows past `row_limit` repeat the last one."""
    if TMA:
        return w_ptr.load([row, depth]).T
    else:  # noqa: RET505 - the compiler looks at both branches otherwise
        r = tl.minimum(row + tl.arange(0, COLS), row_limit - 1).to(tl.int64)
        k = depth + tl.arange(0, DEPTH)
        where = w_ptr + r[None, :] * size_k + k[:, None]
        return tl.load(where) if EVEN else tl.load(where, mask=k[:, None] < size_k, other=0.0)


@triton.jit
def _add_product(acc, a, w, row_scale_ptr, w_scale_ptr, SCALES: tl.constexpr, ROWWISE: tl.constexpr):
    if SCALES == 0:
        return tl.dot(a, w, acc)
    elif ROWWISE:  # noqa: RET505 - the compiler looks at all branches otherwise
        # Tensor cores of sm90 keep 14 bits of an fp8 sum: carry it over to float32 after each step.
        return tl.dot(a, w.to(a.dtype), acc, max_num_imprecise_acc=a.shape[1] if SCALES == 1 else None)
    elif SCALES == 1:
        return acc + tl.dot(a, w) * (tl.load(row_scale_ptr) * tl.load(w_scale_ptr))[:, None]
    else:
        return acc + tl.dot(a, w.to(a.dtype)) * tl.load(w_scale_ptr)


@triton.jit
def _row_scaled(acc, row, col, row_limit, row_scale_ptr, w_scale_ptr, SCALES: tl.constexpr):
    """`acc` times the scales of its rows (if activations have any) and of weight rows `col` below `row_limit`."""
    acc *= tl.load(w_scale_ptr + col, mask=col < row_limit, other=0.0)[None, :]
    if SCALES == 1:
        acc *= tl.load(row_scale_ptr + row)[:, None]
    return acc


@triton.jit(do_not_specialize=["num_pairs", "per_token"])
def gemm1_kernel(
    x_ptr, w_ptr, xs_ptr, ws_ptr, out_ptr, rows_ptr, expert_ptr, totals_ptr, num_pairs, per_token, size_k, size_i,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, NUM_XCDS: tl.constexpr,
    SCALES: tl.constexpr, ROWWISE: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile, is_live = _locate(totals_ptr, tl.cdiv(size_i, COLS), ROWS, GROUP, NUM_XCDS)
    if not is_live:
        return
    out_row = row_tile * ROWS + tl.arange(0, ROWS)
    pair = tl.load(rows_ptr + out_row)
    token = (tl.minimum(pair, num_pairs - 1) // per_token).to(tl.int64)
    gate_row = tl.load(expert_ptr + row_tile) * 2 * size_i + col_tile * COLS
    gate_end = gate_row - col_tile * COLS + size_i
    num_groups = tl.cdiv(size_k, SCALE_GROUP)
    k = tl.arange(0, DEPTH)
    acc_gate = tl.zeros([ROWS, COLS], tl.float32)
    acc_up = tl.zeros([ROWS, COLS], tl.float32)
    for depth in range(0, size_k, DEPTH):
        x_where = x_ptr + token[:, None] * size_k + (depth + k)[None, :]
        a = tl.load(x_where) if EVEN else tl.load(x_where, mask=(depth + k)[None, :] < size_k, other=0.0)
        gate = _weights(w_ptr, gate_row, depth, size_k, gate_end, COLS, DEPTH, EVEN, TMA)
        up = _weights(w_ptr, gate_row + size_i, depth, size_k, gate_end + size_i, COLS, DEPTH, EVEN, TMA)
        group = depth // SCALE_GROUP
        x_scale = xs_ptr + token * num_groups + group
        gate_scale = ws_ptr + gate_row // SCALE_GROUP * num_groups + group
        up_scale = ws_ptr + (gate_row + size_i) // SCALE_GROUP * num_groups + group
        acc_gate = _add_product(acc_gate, a, gate, x_scale, gate_scale, SCALES, ROWWISE)
        acc_up = _add_product(acc_up, a, up, x_scale, up_scale, SCALES, ROWWISE)
    col = col_tile * COLS + tl.arange(0, COLS)
    if ROWWISE:
        w_row = gate_row + tl.arange(0, COLS)
        acc_gate = _row_scaled(acc_gate, token, w_row, gate_end, xs_ptr, ws_ptr, SCALES)
        acc_up = _row_scaled(acc_up, token, w_row + size_i, gate_end + size_i, xs_ptr, ws_ptr, SCALES)
    hidden = acc_gate / (1.0 + tl.exp(-acc_gate)) * acc_up
    out_where = out_ptr + out_row.to(tl.int64)[:, None] * size_i + col[None, :]
    tl.store(out_where, hidden.to(out_ptr.dtype.element_ty), mask=col[None, :] < size_i)


@triton.jit
def gemm2_kernel(
    h_ptr, w_ptr, hs_ptr, ws_ptr, out_ptr, expert_ptr, totals_ptr, size_k, size_n,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, NUM_XCDS: tl.constexpr,
    SCALES: tl.constexpr, ROWWISE: tl.constexpr, EVEN: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile, is_live = _locate(totals_ptr, tl.cdiv(size_n, COLS), ROWS, GROUP, NUM_XCDS)
    if not is_live:
        return
    row = row_tile * ROWS + tl.arange(0, ROWS)
    w_row = tl.load(expert_ptr + row_tile) * size_n + col_tile * COLS
    w_end = w_row - col_tile * COLS + size_n
    num_groups = tl.cdiv(size_k, SCALE_GROUP)
    k = tl.arange(0, DEPTH)
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for depth in range(0, size_k, DEPTH):
        if TMA:
            a = h_ptr.load([row_tile * ROWS, depth])
        else:
            h_where = h_ptr + row.to(tl.int64)[:, None] * size_k + (depth + k)[None, :]
            a = tl.load(h_where) if EVEN else tl.load(h_where, mask=(depth + k)[None, :] < size_k, other=0.0)
        w = _weights(w_ptr, w_row, depth, size_k, w_end, COLS, DEPTH, EVEN, TMA)
        group = depth // SCALE_GROUP
        row_scale = hs_ptr + row * num_groups + group
        acc = _add_product(acc, a, w, row_scale, ws_ptr + w_row // SCALE_GROUP * num_groups + group, SCALES, ROWWISE)
    if ROWWISE:
        acc = _row_scaled(acc, row, w_row + tl.arange(0, COLS), w_end, hs_ptr, ws_ptr, SCALES)
    col = col_tile * COLS + tl.arange(0, COLS)
    out_where = out_ptr + row.to(tl.int64)[:, None] * size_n + col[None, :]
    tl.store(out_where, acc.to(out_ptr.dtype.element_ty), mask=col[None, :] < size_n)


@triton.jit
def combine_kernel(
    rows_ptr, weights_ptr, inverse_ptr, out_ptr, size_m, PER_TOKEN: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """Weighted sum of a token's rows, in the order of its experts, so that equal inputs give equal bits."""
    token = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    acc = tl.zeros([COLS], tl.float32)
    for a in tl.static_range(PER_TOKEN):
        row = tl.load(inverse_ptr + token * PER_TOKEN + a)
        weight = tl.load(weights_ptr + token * PER_TOKEN + a)
        is_here = (row >= 0) & (col < size_m)
        acc += weight * tl.load(rows_ptr + row.to(tl.int64) * size_m + col, mask=is_here, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * size_m + col, acc.to(out_ptr.dtype.element_ty), mask=col < size_m)
