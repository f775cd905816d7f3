"""Between the projections and attention: head norm, rotary embedding and the write to the paged KV cache, one launch.

Legend: T tokens, H query heads, K kv heads, N = H + 2K, D head dim, P pairs that rotate (2P <= D; the others pass);
for latent attention U unrotated and O = 2P rotated dims of a query head, R latent width, C = R + O;
X pages of S tokens.

Pairs are (2i, 2i+1); `rotation` is float32 [T, P, 2], cosine and sine of each pair (scaled where YaRN says so).
Token t goes to page `pages_T[t]`, at `positions_T[t]` modulo S. Arithmetic is float32, rounded once at the end.
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for
from proa_kernels.dispatch import custom_op

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def rope_write(
    qkv_TND: torch.Tensor,
    norm_D: torch.Tensor | None,
    eps: float,
    rotation_TP2: torch.Tensor,
    pages_T: torch.Tensor,
    positions_T: torch.Tensor,
    cache_X2KSD: torch.Tensor,
) -> torch.Tensor:
    """Rotated queries [T, H, D]; keys and values land in `cache_X2KSD` (its inner four dims contiguous).

    `norm_D`, [H + K, D]: weights of the norm over each query and key head before the rotation. Two tokens must not
    share a place in the cache unless their rows are equal. Raises ValueError for shapes and dtypes that do not fit.
    """
    _check_places(qkv_TND, rotation_TP2, pages_T, positions_T, qkv_TND.shape[-1])
    inner = cache_X2KSD.shape[1:]
    num_kv_heads = inner[1] if len(inner) == 4 else 0
    if not qkv_TND.is_contiguous() or qkv_TND.dim() != 3 or qkv_TND.shape[1] <= 2 * num_kv_heads:
        raise ValueError(
            f"qkv must be contiguous [T, H + 2K, D], not {tuple(qkv_TND.shape)} for {num_kv_heads} kv heads"
        )
    if len(inner) != 4 or inner[0] != 2 or inner[3] != qkv_TND.shape[2]:
        raise ValueError(f"cache must be [X, 2, K, S, {qkv_TND.shape[2]}], not {tuple(cache_X2KSD.shape)}")
    _check_cache(cache_X2KSD, qkv_TND.dtype)
    heads = (qkv_TND.shape[1] - num_kv_heads, qkv_TND.shape[2])
    if norm_D is not None and (tuple(norm_D.shape) != heads or not norm_D.is_contiguous()):
        raise ValueError(f"norm must be [{heads[0]}, {heads[1]}], not {tuple(norm_D.shape)}")
    return _rope_write_op(qkv_TND, norm_D, eps, rotation_TP2, pages_T, positions_T, cache_X2KSD)


def latent_rope_write(
    q_THD: torch.Tensor,
    latent_TC: torch.Tensor,
    norm_R: torch.Tensor,
    eps: float,
    rotation_TP2: torch.Tensor,
    pages_T: torch.Tensor,
    positions_T: torch.Tensor,
    cache_XSC: torch.Tensor,
) -> None:
    """Rotate the last O dims of every query head in place; write normed latent and rotated key to `cache_XSC`.

    `latent_TC` may be a slice of columns, and so may a token's heads in `q_THD`. Raises ValueError for what does not
    fit together.
    """
    num_rotated = 2 * rotation_TP2.shape[1] if rotation_TP2.dim() == 3 else 0
    _check_places(q_THD, rotation_TP2, pages_T, positions_T, q_THD.shape[-1])
    if q_THD.dim() != 3 or q_THD.stride()[1:] != (q_THD.shape[2], 1):
        raise ValueError(f"queries must be [T, H, D], a token's heads contiguous, not strided {q_THD.stride()}")
    if norm_R.dim() != 1 or not norm_R.is_contiguous():
        raise ValueError(f"norm must be contiguous [R], not {tuple(norm_R.shape)} strided {norm_R.stride()}")
    width = norm_R.shape[0] + num_rotated
    if tuple(latent_TC.shape) != (q_THD.shape[0], width) or latent_TC.stride(1) != 1 or latent_TC.dtype != q_THD.dtype:
        raise ValueError(f"latents must be {q_THD.dtype} [{q_THD.shape[0]}, {width}], not {tuple(latent_TC.shape)}")
    if cache_XSC.dim() != 3 or cache_XSC.shape[2] != width:
        raise ValueError(f"cache must be [X, S, {width}], not {tuple(cache_XSC.shape)}")
    _check_cache(cache_XSC, q_THD.dtype)
    _latent_rope_write_op(q_THD, latent_TC, norm_R, eps, rotation_TP2, pages_T, positions_T, cache_XSC)


def _check_places(
    x: torch.Tensor, rotation: torch.Tensor, pages: torch.Tensor, positions: torch.Tensor, head_dim: int
) -> None:
    num_tokens = x.shape[0]
    if x.dtype not in FLOATS:
        raise ValueError(f"no rotation of {x.dtype}")
    shape = tuple(rotation.shape)
    is_table = len(shape) == 3 and shape[0] == num_tokens and shape[2] == 2 and 0 < 2 * shape[1] <= head_dim
    if not is_table or rotation.dtype != torch.float32 or not rotation.is_contiguous():
        raise ValueError(f"rotation must be contiguous float32 [{num_tokens}, P, 2], not {rotation.dtype} {shape}")
    for name, ids in (("pages", pages), ("positions", positions)):
        is_flat = tuple(ids.shape) == (num_tokens,) and ids.is_contiguous()
        if not is_flat or ids.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be contiguous integers [{num_tokens}], not {ids.dtype} {tuple(ids.shape)}")


def _check_cache(cache: torch.Tensor, dtype: torch.dtype) -> None:
    if cache.dtype != dtype:
        raise ValueError(f"cache holds {cache.dtype}, the new rows are {dtype}")
    if cache.shape[0] and not cache[0].is_contiguous():
        raise ValueError(f"pages of the cache must be contiguous, not strided {cache.stride()}")


def rotate_ref(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """float32 `x` [T, heads, D] with its first 2P dims rotated."""
    num_rotated = 2 * rotation.shape[1]
    even, odd = x[..., 0:num_rotated:2], x[..., 1:num_rotated:2]
    cos, sin = rotation[:, None, :, 0], rotation[:, None, :, 1]
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
    return torch.cat([rotated, x[..., num_rotated:]], -1)


def rope_write_ref(
    qkv: torch.Tensor, norm: torch.Tensor | None, eps: float, rotation: torch.Tensor,
    pages: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Queries, normed and rotated, [T, H, D]; keys and values of `qkv` go to their places in `cache`."""
    num_kv_heads, page_tokens = cache.shape[2:4]
    qk, v = qkv.float().split_with_sizes([qkv.shape[1] - num_kv_heads, num_kv_heads], 1)
    if norm is not None:
        qk = qk * torch.rsqrt(qk.square().mean(-1, keepdim=True) + eps) * norm.float()
    q, k = rotate_ref(qk, rotation).split_with_sizes([qk.shape[1] - num_kv_heads, num_kv_heads], 1)
    # [T, plane, K, D], the order in which indexing with two apart index arrays yields its rows
    cache[pages.long(), :, :, (positions % page_tokens).long()] = torch.stack([k, v], 1).to(cache.dtype)
    return q.to(qkv.dtype).contiguous()


def latent_rope_write_ref(
    q: torch.Tensor, latent: torch.Tensor, norm: torch.Tensor, eps: float, rotation: torch.Tensor,
    pages: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor,
) -> None:  # fmt: skip
    """Rotates the last dimensions of `q` in place; normed latent and rotated key go to their places in `cache`."""
    num_rotated = 2 * rotation.shape[1]
    q[..., -num_rotated:] = rotate_ref(q[..., -num_rotated:].float(), rotation).to(q.dtype)
    latent_R, key = latent.float().split_with_sizes([norm.shape[0], num_rotated], 1)
    normed = latent_R * torch.rsqrt(latent_R.square().mean(-1, keepdim=True) + eps) * norm.float()
    rows = torch.cat([normed, rotate_ref(key[:, None], rotation)[:, 0]], 1)
    cache[pages.long(), (positions % cache.shape[1]).long()] = rows.to(cache.dtype)


@custom_op(
    "proa::rope_write",
    mutates_args=("cache",),
    schema="(Tensor qkv, Tensor? norm, float eps, Tensor rotation, Tensor pages, Tensor positions, Tensor(a!) cache)"
    " -> Tensor",
)
def _rope_write_op(
    qkv: torch.Tensor, norm: torch.Tensor | None, eps: float, rotation: torch.Tensor,
    pages: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    if arm_for("rope_write", qkv.device) == "reference":
        return rope_write_ref(qkv, norm, eps, rotation, pages, positions, cache)
    from proa_kernels.rope_triton import launch_rope_write  # the reference needs no Triton

    q = _empty_queries(qkv, cache)
    launch_rope_write(qkv, norm, eps, rotation, pages, positions, cache, q)
    return q


@_rope_write_op.register_fake
def _rope_write_fake(
    qkv: torch.Tensor, norm: torch.Tensor | None, eps: float, rotation: torch.Tensor,
    pages: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    return _empty_queries(qkv, cache)


def _empty_queries(qkv: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    return qkv.new_empty((qkv.shape[0], qkv.shape[1] - 2 * cache.shape[2], qkv.shape[2]))


@custom_op(
    "proa::latent_rope_write",
    mutates_args=("q", "cache"),
    schema="(Tensor(a!) q, Tensor latent, Tensor norm, float eps, Tensor rotation, Tensor pages, Tensor positions,"
    " Tensor(b!) cache) -> ()",
)
def _latent_rope_write_op(
    q: torch.Tensor, latent: torch.Tensor, norm: torch.Tensor, eps: float, rotation: torch.Tensor,
    pages: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor,
) -> None:  # fmt: skip
    if arm_for("rope_write", q.device) == "reference":
        latent_rope_write_ref(q, latent, norm, eps, rotation, pages, positions, cache)
        return
    from proa_kernels.rope_triton import launch_latent_rope_write

    launch_latent_rope_write(q, latent, norm, eps, rotation, pages, positions, cache)


@_latent_rope_write_op.register_fake
def _latent_rope_write_fake(*_: object) -> None:
    return None
