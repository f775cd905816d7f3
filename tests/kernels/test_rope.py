"""Head norm, rotation and cache write in the interpreter against their references, and those against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from proa_kernels.rope import latent_rope_write, latent_rope_write_ref, rope_write, rope_write_ref
from proa_kernels.rope_triton import heads_per_program, launch_latent_rope_write, launch_rope_write
from proa_kernels.testing import Guarded, is_poison, relative_error, tolerance

CPU = torch.device("cpu")
EPS, PAGE, NUM_PAGES = 1e-6, 4, 7
POSITIONS = torch.tensor([0, 3, 4, 11, 5])
PAGES = torch.tensor([6, 0, 5, 2, 2])


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rotation(tokens: int, pairs: int) -> torch.Tensor:
    angles = torch.outer(POSITIONS[:tokens].float(), 100.0 ** -(torch.arange(pairs) / max(pairs, 1)))
    return torch.stack([angles.cos(), angles.sin()], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "dim", "pairs"),
    [(0, 2, 1, 8, 4), (1, 1, 1, 8, 4), (5, 6, 2, 16, 8), (3, 9, 3, 12, 4)],
)
def test_rope_write_equals_reference(
    tokens: int, heads: int, kv_heads: int, dim: int, pairs: int, has_norm: bool, dtype: torch.dtype
):
    qkv = random(tokens, heads + 2 * kv_heads, dim, dtype=dtype)
    norm = random(heads + kv_heads, dim, dtype=dtype, seed=1) if has_norm else None
    places = (rotation(tokens, pairs), PAGES[:tokens], POSITIONS[:tokens])
    cache = Guarded.empty((NUM_PAGES, 2, kv_heads, PAGE, dim), dtype, CPU)
    q = Guarded.empty((tokens, heads, dim), dtype, CPU)
    launch_rope_write(qkv, norm, EPS, *places, cache.tensor, q.tensor)
    expected = torch.full_like(cache.tensor, float("nan"), dtype=torch.float32)
    q_ref = rope_write_ref(qkv.float(), None if norm is None else norm.float(), EPS, *places, expected)
    assert q.is_intact()
    assert cache.is_intact()
    assert torch.equal(is_poison(cache.tensor), expected.isnan())
    assert relative_error(q.tensor, q_ref) <= tolerance(dtype, depth=dim)
    assert relative_error(cache.tensor.nan_to_num(), expected.nan_to_num()) <= tolerance(dtype, depth=dim)


def test_rope_write_equals_plain_loops():
    heads, kv_heads, dim = 3, 1, 4
    qkv, norm, table = random(2, 5, dim), random(4, dim, seed=1), rotation(2, 2)
    cache = torch.zeros(NUM_PAGES, 2, kv_heads, PAGE, dim)
    q = rope_write(qkv, norm, EPS, table, PAGES[:2], POSITIONS[:2], cache)
    for t in range(2):
        rows = []
        for n in range(heads + kv_heads):
            row = qkv[t, n].tolist()
            scale = 1 / math.sqrt(sum(x * x for x in row) / dim + EPS)
            row = [x * scale * w for x, w in zip(row, norm[n].tolist(), strict=True)]
            turned = [complex(row[2 * i], row[2 * i + 1]) * complex(*table[t, i].tolist()) for i in range(dim // 2)]
            rows.append([part for z in turned for part in (z.real, z.imag)])
        place = (int(PAGES[t]), slice(None), 0, int(POSITIONS[t]) % PAGE)
        torch.testing.assert_close(q[t], torch.tensor(rows[:heads]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(cache[place], torch.stack([torch.tensor(rows[3]), qkv[t, 4]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("tokens", "heads", "unrotated", "rank", "rotated"),
    [(0, 1, 4, 8, 4), (1, 1, 4, 8, 4), (5, 5, 6, 24, 6), (3, 12, 8, 16, 8)],
)
def test_latent_rope_write_equals_reference(
    tokens: int, heads: int, unrotated: int, rank: int, rotated: int, dtype: torch.dtype
):
    q = Guarded.empty((tokens, heads, unrotated + rotated), dtype, CPU)
    q.tensor.copy_(random(tokens, heads, unrotated + rotated, dtype=dtype))
    q_ref = q.tensor.float()
    down, norm = random(tokens, 5 + rank + rotated, dtype=dtype, seed=1), random(rank, dtype=dtype, seed=2)
    places = (rotation(tokens, rotated // 2), PAGES[:tokens], POSITIONS[:tokens])
    cache = Guarded.empty((NUM_PAGES, PAGE, rank + rotated), dtype, CPU)
    launch_latent_rope_write(q.tensor, down[:, 5:], norm, EPS, *places, cache.tensor)
    expected = torch.full_like(cache.tensor, float("nan"), dtype=torch.float32)
    latent_rope_write_ref(q_ref, down[:, 5:].float(), norm.float(), EPS, *places, expected)
    assert q.is_intact()
    assert cache.is_intact()
    assert torch.equal(is_poison(cache.tensor), expected.isnan())
    assert relative_error(q.tensor, q_ref) <= tolerance(dtype, depth=rank)
    assert relative_error(cache.tensor.nan_to_num(), expected.nan_to_num()) <= tolerance(dtype, depth=rank)


def test_checker_catches_a_token_in_the_wrong_place():
    qkv, cache = random(2, 3, 8), torch.zeros(NUM_PAGES, 2, 1, PAGE, 8)
    other = cache.clone()
    rope_write(qkv, None, EPS, rotation(2, 4), PAGES[:2], POSITIONS[:2], cache)
    rope_write(qkv, None, EPS, rotation(2, 4), PAGES[:2], POSITIONS[:2] + 1, other)
    assert relative_error(other, cache) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.zeros(2, 2, 8)}, "qkv must be"),
        ({"qkv": torch.zeros(2, 3, 8, dtype=torch.int32)}, "no rotation of"),
        ({"norm": torch.zeros(3, 8)}, r"norm must be \[2, 8\]"),
        ({"rotation": torch.zeros(2, 4, 2, dtype=torch.float64)}, "rotation must be"),
        ({"rotation": torch.zeros(2, 5, 2)}, "rotation must be"),
        ({"pages": torch.zeros(3, dtype=torch.int64)}, "pages must be"),
        ({"positions": torch.zeros(2)}, "positions must be"),
        ({"pages": torch.zeros(4, dtype=torch.int64)[::2]}, "pages must be contiguous"),
        ({"cache": torch.zeros(7, 2, 1, 4, 6)}, "cache must be"),
        ({"cache": torch.zeros(7, 2, 1, 4, 8, dtype=torch.float16)}, "cache holds"),
        ({"cache": torch.zeros(7, 4, 2, 1, 8).permute(0, 2, 3, 1, 4)}, "pages of the cache"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change: dict[str, torch.Tensor], message: str):
    good = {
        "qkv": torch.zeros(2, 3, 8), "norm": torch.zeros(2, 8), "rotation": torch.zeros(2, 4, 2),
        "pages": torch.zeros(2, dtype=torch.int64), "positions": torch.zeros(2, dtype=torch.int64),
        "cache": torch.zeros(7, 2, 1, 4, 8),
    }  # fmt: skip
    a = good | change
    with pytest.raises(ValueError, match=message):
        rope_write(a["qkv"], a["norm"], EPS, a["rotation"], a["pages"], a["positions"], a["cache"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 8)}, "queries must be"),
        ({"latent": torch.zeros(2, 11)}, "latents must be"),
        ({"cache": torch.zeros(7, 4, 11)}, "cache must be"),
        ({"norm": torch.zeros(16)[::2]}, "norm must be contiguous"),
    ],
)
def test_bad_latent_input_is_named(change: dict[str, torch.Tensor], message: str):
    good = {
        "q": torch.zeros(2, 3, 8), "latent": torch.zeros(2, 12), "cache": torch.zeros(7, 4, 12),
        "norm": torch.zeros(8),
    }  # fmt: skip
    a = good | change
    with pytest.raises(ValueError, match=message):
        latent_rope_write(
            a["q"], a["latent"], a["norm"], EPS, torch.zeros(2, 2, 2), PAGES[:2], POSITIONS[:2], a["cache"]
        )


def test_ops_have_fake_versions_with_the_same_shapes():
    places = (rotation(2, 4), PAGES[:2], POSITIONS[:2])
    arguments = (random(2, 4, 8), random(3, 8), EPS, *places, torch.zeros(NUM_PAGES, 2, 1, PAGE, 8))
    latent = (random(2, 3, 12), random(2, 24), random(16), EPS, *places, torch.zeros(NUM_PAGES, PAGE, 24))
    for op, values in ((torch.ops.proa.rope_write, arguments), (torch.ops.proa.latent_rope_write, latent)):
        torch.library.opcheck(op.default, values, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("tokens", "heads", "num_cus", "expected"),
    [(1, 40, 132, 1), (32, 40, 132, 4), (256, 40, 132, 8), (8192, 16, 304, 8)],
)
def test_few_tokens_spread_head_by_head(tokens: int, heads: int, num_cus: int, expected: int):
    assert heads_per_program(tokens, heads, num_cus) == expected
