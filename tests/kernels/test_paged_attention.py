"""Paged decode attention in the interpreter against its references, and those against torch's attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from proa_kernels import decode_splits
from proa_kernels.arch import GFX942, SM90, Arch
from proa_kernels.decode_splits import (
    GQA_TILE,
    MAX_KEYS,
    MAX_PART_ROWS,
    MAX_SPLITS,
    MLA_MANY_HEADS,
    DecodeTile,
    Parts,
    num_splits,
)
from proa_kernels.gqa_decode_triton import launch_gqa_decode
from proa_kernels.mla_decode_triton import launch_mla_decode
from proa_kernels.paged_attention import gqa_decode, gqa_decode_ref, mla_decode, mla_decode_ref
from proa_kernels.testing import Guarded, poison_, relative_error, tolerance

CPU = torch.device("cpu")
PAGE, WIDTH = 8, 6
TILE = DecodeTile(rows=16, keys=16, num_warps=1, num_stages=1)
LENGTHS = [0, 1, PAGE - 1, PAGE, PAGE + 1, 17, 32, PAGE * WIDTH]
SCALE = 0.3


def random(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def paged(inner: tuple[int, ...], lengths: list[int], token_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Cache, table and lengths: pages shuffled, and NaN wherever no sequence has a token."""
    num_pages = len(lengths) * WIDTH + 1
    cache = poison_(torch.empty(num_pages, *inner, dtype=dtype))
    order = torch.randperm(num_pages - 1, generator=torch.Generator().manual_seed(5)) + 1
    table = order.view(len(lengths), WIDTH).clone()
    for b, length in enumerate(lengths):
        for n in range(WIDTH):
            held = min(max(length - n * PAGE, 0), PAGE)
            if held == 0:
                table[b, n] = 0  # a page that nobody filled
                continue
            tokens = cache[table[b, n]].narrow(token_dim, 0, held)
            tokens.copy_(random(*tokens.shape, dtype=dtype, seed=int(table[b, n])))
    return cache, table, torch.tensor(lengths)


def gqa_case(heads: int, kv_heads: int, dim: int, lengths: list[int], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    q = random(len(lengths), heads, dim, dtype=dtype, seed=1)
    return q, *paged((2, kv_heads, PAGE, dim), lengths, 2, dtype)


def mla_case(heads: int, rank: int, rotated: int, lengths: list[int], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    q_latent = random(heads, len(lengths), rank, dtype=dtype, seed=1).transpose(0, 1)
    q_rotated = random(len(lengths), heads, rotated + 8, dtype=dtype, seed=2)[..., 8:]
    return q_latent, q_rotated, *paged((PAGE, rank + rotated), lengths, 0, dtype)


def run_gqa(case: tuple[torch.Tensor, ...], splits: int | None) -> torch.Tensor:
    out = Guarded.empty(tuple(case[0].shape), case[0].dtype, CPU)
    launch_gqa_decode(*case, SCALE, out.tensor, TILE, splits)
    assert out.is_intact()
    return out.tensor


def run_mla(case: tuple[torch.Tensor, ...], splits: int | None) -> torch.Tensor:
    out = Guarded.empty(tuple(case[0].shape), case[0].dtype, CPU)
    launch_mla_decode(*case, SCALE, out.tensor, TILE, splits)
    assert out.is_intact()
    return out.tensor


def widened(case: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(t.float() if t.is_floating_point() else t for t in case)


@pytest.mark.parametrize("splits", [None, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(2, 2, 16), (6, 2, 16), (20, 1, 24)])
def test_gqa_equals_reference(heads: int, kv_heads: int, dim: int, dtype: torch.dtype, splits: int | None):
    case = gqa_case(heads, kv_heads, dim, LENGTHS, dtype)
    out, expected = run_gqa(case, splits), gqa_decode_ref(*widened(case), SCALE)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    # weights and the sum are each rounded once
    assert relative_error(out, expected) < tolerance(dtype, num_roundings=2, depth=PAGE * WIDTH)


@pytest.mark.parametrize("splits", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("heads", "rank", "rotated"), [(1, 16, 16), (16, 24, 16), (19, 32, 12)])
def test_mla_equals_reference(heads: int, rank: int, rotated: int, dtype: torch.dtype, splits: int | None):
    case = mla_case(heads, rank, rotated, LENGTHS, dtype)
    out, expected = run_mla(case, splits), mla_decode_ref(*widened(case), SCALE)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert relative_error(out, expected) < tolerance(dtype, num_roundings=2, depth=PAGE * WIDTH)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_table_and_lengths_of_both_integer_types(dtype: torch.dtype):
    q, cache, table, lengths = gqa_case(4, 2, 16, [5, 20], torch.float32)
    out = run_gqa((q, cache, table.to(dtype), lengths.to(dtype)), 2)
    assert relative_error(out, gqa_decode_ref(q, cache, table, lengths, SCALE)) < 1e-5


def test_large_scores_do_not_overflow():
    q, cache, table, lengths = gqa_case(2, 1, 16, [30], torch.float32)
    case = (q * 1e4, cache, table, lengths)
    assert relative_error(run_gqa(case, 2), gqa_decode_ref(*case, SCALE)) < 1e-4


def test_reference_is_torchs_attention():
    q, cache, table, lengths = gqa_case(6, 2, 16, [21], torch.float32)
    k, v = cache[table[0, :3]].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :21].repeat_interleave(3, 1)
    theirs = F.scaled_dot_product_attention(q[0, :, None], k, v, scale=SCALE)[:, 0]
    assert relative_error(gqa_decode(q, cache, table, lengths, SCALE)[0], theirs) < 1e-5


def test_mla_reference_is_gqa_with_one_kv_head():
    q_latent, q_rotated, cache, table, lengths = mla_case(4, 16, 16, [3, 29], torch.float32)
    both = torch.stack([cache, torch.cat([cache[..., :16], torch.zeros_like(cache[..., 16:])], -1)], 1)[:, :, None]
    wide = gqa_decode_ref(torch.cat([q_latent, q_rotated], -1), both, table, lengths, SCALE)
    assert relative_error(mla_decode(q_latent, q_rotated, cache, table, lengths, SCALE), wide[..., :16]) < 1e-5


@pytest.mark.parametrize("fault", ["length", "page", "scale"])
def test_checker_catches_planted_faults(fault: str):
    q, cache, table, lengths = gqa_case(4, 2, 16, [5, 20, 41], torch.float32)
    expected = gqa_decode_ref(q, cache, table, lengths, SCALE)
    if fault == "length":
        lengths = lengths - torch.tensor([0, 0, 1])
    elif fault == "page":
        table[1, 0], table[1, 1] = table[1, 1].clone(), table[2, 0].clone()
    else:
        q = q * 1.01
    assert relative_error(run_gqa((q, cache, table, lengths), 2), expected) > 1e-4


def test_checker_catches_a_key_past_the_length():
    q, cache, table, lengths = gqa_case(2, 1, 16, [5], torch.float32)
    assert run_gqa((q, cache, table, lengths + 1), None).isnan().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 4, 8).transpose(1, 2)}, "queries must be contiguous"),
        ({"q": torch.zeros(2, 3, 8)}, "is no"),
        ({"cache": torch.zeros(3, 2, 2, 4, 6)}, "is no"),
        ({"cache": torch.zeros(3, 2, 2, 4, 8, dtype=torch.float16)}, "no attention of"),
        ({"cache": torch.zeros(3, 4, 2, 2, 8).permute(0, 2, 3, 1, 4)}, "pages of the cache"),
        ({"table": torch.zeros(3, 2, dtype=torch.int64)}, "table must be"),
        ({"table": torch.zeros(2, 2)}, "table must be"),
        ({"lengths": torch.zeros(3, dtype=torch.int64)}, "lengths must be"),
        ({"lengths": torch.zeros(4, dtype=torch.int64)[::2]}, "lengths must be contiguous"),
    ],
)
def test_bad_gqa_input_is_named(change: dict[str, torch.Tensor], message: str):
    a = {
        "q": torch.zeros(2, 4, 8), "cache": torch.zeros(3, 2, 2, 4, 8),
        "table": torch.zeros(2, 2, dtype=torch.int64), "lengths": torch.zeros(2, dtype=torch.int64),
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=message):
        gqa_decode(a["q"], a["cache"], a["table"], a["lengths"], SCALE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_rotated": torch.zeros(2, 3, 4)}, "are not"),
        ({"q_latent": torch.zeros(2, 8, 4).transpose(1, 2)}, "last dim"),
        ({"cache": torch.zeros(3, 4, 11)}, "cache must be"),
    ],
)
def test_bad_mla_input_is_named(change: dict[str, torch.Tensor], message: str):
    a = {
        "q_latent": torch.zeros(2, 4, 8), "q_rotated": torch.zeros(2, 4, 4), "cache": torch.zeros(3, 4, 12),
    } | change  # fmt: skip
    table, lengths = torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        mla_decode(a["q_latent"], a["q_rotated"], a["cache"], table, lengths, SCALE)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_named(scale: float):
    with pytest.raises(ValueError, match="must be positive"):
        gqa_decode(*gqa_case(4, 2, 16, [5], torch.float32), scale)


def test_ops_have_fake_versions_with_the_same_shapes():
    gqa = (*gqa_case(4, 2, 16, [5, 20], torch.float32), SCALE)
    mla = (*mla_case(4, 16, 16, [5, 20], torch.float32), SCALE)
    for op, arguments in ((torch.ops.proa.gqa_decode, gqa), (torch.ops.proa.mla_decode, mla)):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("programs", "max_keys", "arch", "expected"),
    [
        (4, 127, SM90, 1),
        (4, 192, SM90, 2),
        (4, 4096, SM90, 64),
        (512, 4096, SM90, 1),
        (64, 4096, SM90, 4),
        (1, 1 << 20, GFX942, 64),
    ],
)
def test_splits(programs: int, max_keys: int, arch: Arch, expected: int):
    assert num_splits(programs, max_keys, arch, TILE) == expected


@pytest.mark.parametrize("arch", [SM90, GFX942], ids=lambda arch: arch.name)
def test_splits_fill_the_gpu_once_at_most_up_to_the_bound_of_keys(arch: Arch):
    for programs in (1, 3, 7, 64, 200, 1000):
        for keys in (1, 63, 64, 511, MAX_KEYS):
            splits = num_splits(programs, keys, arch, TILE)
            assert splits & (splits - 1) == 0
            assert splits == 1 or (splits <= MAX_SPLITS and splits * TILE.min_keys <= keys)
            assert splits == 1 or splits * programs <= TILE.programs_per_cu * arch.num_cus


@pytest.mark.parametrize(
    ("programs", "max_keys", "expected"),
    [(512, 4096, 1), (512, 4097, 2), (512, 12288, 4), (512, 32768, 8), (512, 1 << 20, 32), (2048, 1 << 20, 8)],
)
def test_no_split_is_longer_than_the_bound_while_the_parts_stay_small(programs: int, max_keys: int, expected: int):
    """128 sequences of four kv heads fill the GPU, however long one of them is."""
    tile = GQA_TILE["sm90"]
    splits = num_splits(programs, max_keys, SM90, tile)
    assert splits == expected
    assert splits * MAX_KEYS >= max_keys or 2 * splits * programs * tile.rows > MAX_PART_ROWS


def test_parts_of_many_wide_rows_stay_small():
    programs = 512 * 2  # sequences of 128 heads
    assert num_splits(programs, 1 << 17, SM90, MLA_MANY_HEADS["sm90"]) == 4


def recorded(merge: Callable[..., None], asked: list[int]) -> Callable[..., None]:
    def note(parts: Parts, out: torch.Tensor, splits: int) -> None:
        asked.append(splits)
        merge(parts, out, splits)

    return note


@pytest.mark.parametrize("kind", ["gqa", "mla"])
def test_one_long_row_among_short_ones_is_split(kind: str, monkeypatch: pytest.MonkeyPatch):
    """The bound lowered to the small case's sizes; one program per row and no bound gives the same."""
    lengths = [1, PAGE, 3, PAGE * WIDTH]
    case, run = {
        "gqa": (gqa_case(4, 2, 16, lengths, torch.float32), run_gqa),
        "mla": (mla_case(4, 16, 16, lengths, torch.float32), run_mla),
    }[kind]
    whole = run(case, 1)
    asked: list[int] = []
    monkeypatch.setattr(decode_splits, "MAX_KEYS", PAGE)
    monkeypatch.setattr(Parts, "merge_into", recorded(Parts.merge_into, asked))
    bounded = run(case, None)
    assert asked == [8], "48 keys, at most 8 a split"
    assert relative_error(bounded, whole) < 1e-5
