"""Grouped products of microscaling experts in Triton. Legend as in mxfp_gemm.py; one program computes one tile.

X and W name the elements ("bf16", "e4m3", "e2m1"). With SCALED (gfx950) the matrix cores take elements and scale bytes
as they are (`tl.dot_scaled`); else both sides become DOT in registers: bfloat16, which holds every product of an
element and a scale, or float32 in the interpreter. Pitches are bytes of a row: two e2m1 elements share one.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import triton
import triton.language as tl

from proa_kernels.moe_gemm_triton import _locate as locate
from proa_kernels.mxfp_triton import MX_GROUP, mx_numbers, mx_quantized


@triton.jit
def _block(ptr, row, start, pitch, WIDTH: tl.constexpr, EVEN: tl.constexpr):
    """[rows, WIDTH] from column `start` of rows that are `pitch` wide; zero past their end."""
    k = start + tl.arange(0, WIDTH)
    where = ptr + row[:, None] * pitch + k[None, :]
    return tl.load(where) if EVEN else tl.load(where, mask=k[None, :] < pitch, other=0)


@triton.jit
def _weights(w_ptr, ws_ptr, row, depth, pitch, size_s, DEPTH: tl.constexpr, W: tl.constexpr, EVEN: tl.constexpr):
    PER_BYTE: tl.constexpr = 2 if W == "e2m1" else 1
    w = _block(w_ptr, row, depth // PER_BYTE, pitch, DEPTH // PER_BYTE, EVEN)
    return w, _block(ws_ptr, row, depth // MX_GROUP, size_s, DEPTH // MX_GROUP, EVEN)


@triton.jit
def _activations(x_ptr, xs_ptr, row, depth, pitch, size_s, DEPTH: tl.constexpr, X: tl.constexpr, EVEN: tl.constexpr):
    """Without scales the second block stands for nothing."""
    PER_BYTE: tl.constexpr = 2 if X == "e2m1" else 1
    x = _block(x_ptr, row, depth // PER_BYTE, pitch, DEPTH // PER_BYTE, EVEN)
    if X == "bf16":
        return x, x
    else:  # noqa: RET505 - the compiler looks at both branches otherwise
        return x, _block(xs_ptr, row, depth // MX_GROUP, size_s, DEPTH // MX_GROUP, EVEN)


@triton.jit
def _add_product(
    acc, x, x_scale, w, w_scale, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
    X: tl.constexpr, W: tl.constexpr, SCALED: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    if SCALED:
        if X == "bf16":
            return tl.dot_scaled(x, None, X, w.T, w_scale, W, acc)
        else:  # noqa: RET505 - the compiler looks at both branches otherwise
            return tl.dot_scaled(x, x_scale, X, w.T, w_scale, W, acc)
    else:
        a = x.to(DOT) if X == "bf16" else mx_numbers(x, x_scale, ROWS, DEPTH, X, DOT)
        return tl.dot(a, mx_numbers(w, w_scale, COLS, DEPTH, W, DOT).T, acc)


@triton.jit(do_not_specialize=["num_pairs", "per_token"])
def gemm1_mx_kernel(
    x_ptr, w_ptr, xs_ptr, ws_ptr, out_ptr, outs_ptr, rows_ptr, expert_ptr, totals_ptr, num_pairs, per_token,
    size_x, size_w, size_s, size_i,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, NUM_XCDS: tl.constexpr,
    X: tl.constexpr, W: tl.constexpr, OUT: tl.constexpr, SCALED: tl.constexpr, DOT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile, is_live = locate(totals_ptr, tl.cdiv(size_i, COLS), ROWS, GROUP, NUM_XCDS)
    if not is_live:
        return
    out_row = row_tile * ROWS + tl.arange(0, ROWS)
    token = (tl.minimum(tl.load(rows_ptr + out_row), num_pairs - 1) // per_token).to(tl.int64)
    gate_row = tl.load(expert_ptr + row_tile).to(tl.int64) * 2 * size_i
    # Columns past the last repeat it: their results are not stored, and unmasked loads are faster.
    gate_row += tl.minimum(col_tile * COLS + tl.arange(0, COLS), size_i - 1)
    acc_gate = tl.zeros([ROWS, COLS], tl.float32)
    acc_up = tl.zeros([ROWS, COLS], tl.float32)
    for depth in range(0, size_s * MX_GROUP, DEPTH):
        x, x_scale = _activations(x_ptr, xs_ptr, token, depth, size_x, size_s, DEPTH, X, EVEN)
        w, w_scale = _weights(w_ptr, ws_ptr, gate_row, depth, size_w, size_s, DEPTH, W, EVEN)
        acc_gate = _add_product(acc_gate, x, x_scale, w, w_scale, ROWS, COLS, DEPTH, X, W, SCALED, DOT)
        w, w_scale = _weights(w_ptr, ws_ptr, gate_row + size_i, depth, size_w, size_s, DEPTH, W, EVEN)
        acc_up = _add_product(acc_up, x, x_scale, w, w_scale, ROWS, COLS, DEPTH, X, W, SCALED, DOT)
    hidden = acc_gate / (1.0 + tl.exp(-acc_gate)) * acc_up
    if OUT == "bf16":
        _store(out_ptr, hidden.to(out_ptr.dtype.element_ty), out_row, col_tile, size_i, COLS)
    else:
        PER_BYTE: tl.constexpr = 2 if OUT == "e2m1" else 1
        values, scale = mx_quantized(hidden, ROWS, COLS, OUT)
        _store(out_ptr, values, out_row, col_tile, size_i // PER_BYTE, COLS // PER_BYTE)
        _store(outs_ptr, scale, out_row, col_tile, size_i // MX_GROUP, COLS // MX_GROUP)


@triton.jit
def gemm2_mx_kernel(
    h_ptr, w_ptr, hs_ptr, ws_ptr, out_ptr, expert_ptr, totals_ptr, size_x, size_w, size_s, size_n,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, NUM_XCDS: tl.constexpr,
    X: tl.constexpr, W: tl.constexpr, SCALED: tl.constexpr, DOT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    row_tile, col_tile, is_live = locate(totals_ptr, tl.cdiv(size_n, COLS), ROWS, GROUP, NUM_XCDS)
    if not is_live:
        return
    row = (row_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    w_row = tl.load(expert_ptr + row_tile).to(tl.int64) * size_n
    w_row += tl.minimum(col_tile * COLS + tl.arange(0, COLS), size_n - 1)
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for depth in range(0, size_s * MX_GROUP, DEPTH):
        h, h_scale = _activations(h_ptr, hs_ptr, row, depth, size_x, size_s, DEPTH, X, EVEN)
        w, w_scale = _weights(w_ptr, ws_ptr, w_row, depth, size_w, size_s, DEPTH, W, EVEN)
        acc = _add_product(acc, h, h_scale, w, w_scale, ROWS, COLS, DEPTH, X, W, SCALED, DOT)
    _store(out_ptr, acc.to(out_ptr.dtype.element_ty), row, col_tile, size_n, COLS)


@triton.jit
def _store(ptr, block, row, col_tile, pitch, WIDTH: tl.constexpr):
    col = col_tile * WIDTH + tl.arange(0, WIDTH)
    tl.store(ptr + row.to(tl.int64)[:, None] * pitch + col[None, :], block, mask=col[None, :] < pitch)
