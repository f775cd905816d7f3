"""Paged prefill attention in the interpreter against its reference, and that against torch's attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from proa_kernels.decode_splits import DecodeTile
from proa_kernels.paged_prefill import gqa_prefill, gqa_prefill_ref
from proa_kernels.prefill_triton import launch_gqa_prefill
from proa_kernels.testing import Guarded, poison_, relative_error, tolerance

CPU = torch.device("cpu")
PAGE, WIDTH, SCALE = 8, 6, 0.3
TILE = DecodeTile(rows=16, keys=16, num_warps=1, num_stages=1)
# (prefix, tokens) of the chunks of one launch
CHUNKS = {
    "one token": [(0, 1)],
    "one prompt": [(0, 21)],
    "after a prefix": [(13, 9)],
    "mixed": [(0, 5), (7, 1), (16, 16), (8, 33), (31, 17)],
}


def random(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def case(chunks: list[tuple[int, int]], heads: int, kv_heads: int, dim: int, dtype: torch.dtype):
    """Queries, cache, table, starts, prefixes; NaN behind the last key of every chunk."""
    cache = poison_(torch.empty(len(chunks) * WIDTH + 1, 2, kv_heads, PAGE, dim, dtype=dtype))
    order = torch.randperm(len(chunks) * WIDTH, generator=torch.Generator().manual_seed(5)) + 1
    table = order.view(len(chunks), WIDTH).clone()
    for c, (prefix, tokens) in enumerate(chunks):
        for n in range(WIDTH):
            held = min(max(prefix + tokens - n * PAGE, 0), PAGE)
            if held == 0:
                table[c, n] = 0
                continue
            cache[table[c, n], :, :, :held] = random(2, kv_heads, held, dim, dtype=dtype, seed=int(table[c, n]))
    counts = [tokens for _, tokens in chunks]
    q = random(sum(counts), heads, dim, dtype=dtype, seed=1)
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()])
    return q, cache, table, starts, torch.tensor([prefix for prefix, _ in chunks])


def run(problem: tuple[torch.Tensor, ...], max_tokens: int) -> torch.Tensor:
    q, cache, table, starts, prefixes = problem
    out = Guarded.empty(tuple(q.shape), q.dtype, CPU)
    launch_gqa_prefill(q, cache, table, starts, prefixes, max_tokens, SCALE, out.tensor, TILE)
    assert out.is_intact()
    return out.tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(2, 2, 16), (6, 2, 16), (20, 1, 24)])
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_prefill_equals_reference(
    chunks: list[tuple[int, int]], heads: int, kv_heads: int, dim: int, dtype: torch.dtype
):
    problem = case(chunks, heads, kv_heads, dim, dtype)
    wide = [t.float() if t.is_floating_point() else t for t in problem]
    expected = gqa_prefill_ref(*wide, SCALE)
    out = run(problem, max(tokens for _, tokens in chunks))
    assert relative_error(out, expected) < tolerance(dtype, num_roundings=2, depth=PAGE * WIDTH)


def test_a_loose_bound_on_the_tokens_changes_nothing():
    problem = case(CHUNKS["mixed"], 4, 2, 16, torch.float32)
    assert torch.equal(run(problem, 33), run(problem, 100))


@pytest.mark.parametrize("prefix", [0, 13])
def test_reference_is_torchs_attention(prefix: int):
    q, cache, table, starts, prefixes = case([(prefix, 9)], 6, 2, 16, torch.float32)
    num_keys = prefix + 9
    k, v = cache[table[0, :3]].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :num_keys].repeat_interleave(3, 1)
    mask = torch.arange(num_keys) <= torch.arange(prefix, num_keys)[:, None]
    theirs = F.scaled_dot_product_attention(q.transpose(0, 1), k, v, attn_mask=mask, scale=SCALE).transpose(0, 1)
    assert relative_error(gqa_prefill(q, cache, table, starts, prefixes, 9, SCALE), theirs) < 1e-5


@pytest.mark.parametrize("fault", ["prefix", "page", "start"])
def test_checker_catches_planted_faults(fault: str):
    q, cache, table, starts, prefixes = case(CHUNKS["mixed"], 4, 2, 16, torch.float32)
    expected = gqa_prefill_ref(q, cache, table, starts, prefixes, SCALE)
    if fault == "prefix":
        prefixes = prefixes - torch.tensor([0, 0, 1, 0, 0])
    elif fault == "page":
        table[3, 0], table[3, 1] = table[3, 1].clone(), table[3, 0].clone()
    else:
        starts = starts + torch.tensor([0, 0, 1, 0, 0, 0])
    assert not relative_error(run((q, cache, table, starts, prefixes), 33), expected) < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(4, 4, 8).transpose(1, 2)}, "queries must be contiguous"),
        ({"q": torch.zeros(4, 3, 8)}, "is no"),
        ({"cache": torch.zeros(3, 2, 2, 4, 8, dtype=torch.float16)}, "no attention of"),
        ({"table": torch.zeros(1, 2, dtype=torch.int64)}, "table must be"),
        ({"starts": torch.zeros(2, dtype=torch.int64)}, "starts must be 3 contiguous integers"),
        ({"starts": torch.zeros(6, dtype=torch.int64)[::2]}, "starts must be 3 contiguous"),
        ({"prefixes": torch.zeros(2)}, "lengths must be"),
    ],
)
def test_bad_input_is_named(change: dict[str, torch.Tensor], message: str):
    a = {
        "q": torch.zeros(4, 4, 8), "cache": torch.zeros(3, 2, 2, 4, 8), "table": torch.zeros(2, 2, dtype=torch.int64),
        "starts": torch.tensor([0, 2, 4]), "prefixes": torch.zeros(2, dtype=torch.int64),
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=message):
        gqa_prefill(a["q"], a["cache"], a["table"], a["starts"], a["prefixes"], 2, SCALE)


def test_op_has_a_fake_version_with_the_same_shapes():
    arguments = (*case(CHUNKS["mixed"], 4, 2, 16, torch.float32), 33, SCALE)
    torch.library.opcheck(torch.ops.proa.gqa_prefill.default, arguments, test_utils=("test_schema", "test_faketensor"))
