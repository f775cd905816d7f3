"""align & sort in the interpreter against its reference, and the reference against the obvious loop."""

from __future__ import annotations

import pytest
import torch
from proa_kernels.arch import AlignPlan
from proa_kernels.moe_align import align_ref, capacity, empty_alignment, moe_align
from proa_kernels.moe_align_triton import launch_align
from proa_kernels.testing import Guarded, alignment_faults

CPU = torch.device("cpu")
ONE = AlignPlan(num_launches=1, num_programs=1, tile=64, num_warps=1)
SPLIT = AlignPlan(num_launches=1, num_programs=4, tile=16, num_warps=1)
MANY = AlignPlan(num_launches=2, num_programs=3, tile=16, num_warps=1)
# tokens, experts per token, experts, block rows, plan
SHAPES = [
    (0, 8, 8, 4, ONE),
    (1, 1, 1, 4, ONE),
    (1, 8, 256, 16, ONE),
    (8, 8, 64, 64, ONE),
    (21, 3, 65, 8, ONE),
    (0, 8, 8, 4, SPLIT),
    (21, 3, 65, 8, SPLIT),
    (16, 1, 65, 4, SPLIT),
    (8, 8, 1024, 256, SPLIT),
    (5, 3, 257, 4, MANY),
    (8, 2, 8, 256, MANY),
    (15, 1, 65, 4, MANY),
    (16, 1, 65, 4, MANY),
    (17, 1, 65, 4, MANY),
    (48, 1, 384, 32, MANY),
    (49, 1, 512, 32, MANY),
    (53, 3, 1024, 16, MANY),
]


def random_ids(tokens: int, per_token: int, low: int, high: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (tokens, per_token), generator=generator, dtype=torch.int32)


def run(
    ids: torch.Tensor,
    num_experts: int,
    block_rows: int,
    plan: AlignPlan,
    expert_map: torch.Tensor | None = None,
    num_tokens: torch.Tensor | None = None,
) -> list[str]:
    """Faults of one launch into poisoned outputs with canaries around them."""
    sizes = [tensor.numel() for tensor in empty_alignment(ids.numel(), num_experts, block_rows, CPU).tensors()]
    guards = [Guarded.empty((size,), torch.int32, CPU) for size in sizes]
    outputs = tuple(guard.tensor for guard in guards)
    launch_align(ids, block_rows, expert_map, num_tokens, outputs, plan)
    faults = alignment_faults(outputs, align_ref(ids, num_experts, block_rows, expert_map, num_tokens), block_rows)
    return faults + [f"canary {idx}" for idx, guard in enumerate(guards) if not guard.is_intact()]


@pytest.mark.parametrize(("tokens", "per_token", "num_experts", "block_rows", "plan"), SHAPES)
def test_shapes_with_dropped_ids(tokens: int, per_token: int, num_experts: int, block_rows: int, plan: AlignPlan):
    ids = random_ids(tokens, per_token, -1, num_experts + 2)
    assert run(ids, num_experts, block_rows, plan) == []


@pytest.mark.parametrize("plan", [ONE, SPLIT, MANY])
@pytest.mark.parametrize("value", [-1, 0, 5, 7, 8])
def test_all_ids_equal(value: int, plan: AlignPlan):
    assert run(torch.full((30, 2), value, dtype=torch.int32), 8, 4, plan) == []


@pytest.mark.parametrize("plan", [ONE, SPLIT, MANY])
@pytest.mark.parametrize("kept", [0, 1, 4])
def test_expert_map(kept: int, plan: AlignPlan):
    expert_map = torch.full((16,), -1, dtype=torch.int32)
    expert_map[3 : 3 + kept] = torch.arange(kept, dtype=torch.int32)
    assert run(random_ids(20, 2, -1, 18), 4, 8, plan, expert_map=expert_map) == []


@pytest.mark.parametrize("plan", [ONE, SPLIT, MANY])
@pytest.mark.parametrize("count", [-1, 0, 1, 13, 20, 99])
def test_token_count_on_the_device(count: int, plan: AlignPlan):
    num_tokens = torch.tensor([count], dtype=torch.int32)
    assert run(random_ids(20, 3, 0, 8), 8, 4, plan, num_tokens=num_tokens) == []


def test_skewed_ids_and_repeats_are_equal():
    ids = (random_ids(60, 1, 0, 1 << 16).float() / (1 << 16)).pow(4).mul(32).to(torch.int32)
    assert [run(ids, 32, 4, plan) for plan in (SPLIT, MANY) for _ in range(3)] == [[]] * 6


PLANTED = {
    "rows": lambda out: out[0][:2].copy_(out[0][:2].flip(0).clone()),
    "rows past the end": lambda out: out[0][-1:].fill_(0),
    "block experts": lambda out: out[1][:1].add_(1),
    "totals": lambda out: out[2][1:].add_(1),
    "inverse": lambda out: out[3][:1].add_(1),
    "counts": lambda out: out[4][-1:].add_(1),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_checker_catches(fault: str):
    ids = torch.zeros(6, 2, dtype=torch.int32)
    guards = [Guarded.empty((t.numel(),), torch.int32, CPU) for t in empty_alignment(12, 8, 8, CPU).tensors()]
    outputs = tuple(guard.tensor for guard in guards)
    launch_align(ids, 8, None, None, outputs, SPLIT)
    PLANTED[fault](outputs)
    assert alignment_faults(outputs, align_ref(ids, 8, 8), 8) == [fault]


def test_canary_sees_a_write_past_the_end():
    guard = Guarded.empty((4,), torch.int32, CPU)
    assert guard.is_intact()
    guard.whole[guard.margin + 4] = 0
    assert not guard.is_intact()


@pytest.mark.parametrize("seed", range(3))
def test_reference_is_the_obvious_loop(seed: int):
    ids, num_experts, block_rows = random_ids(11, 2, -1, 6, seed), 5, 4
    rows, blocks, inverse = [], [], [-1] * 22
    for expert in range(num_experts):
        mine = [pair for pair, value in enumerate(ids.flatten().tolist()) if value == expert]
        inverse = [len(rows) + mine.index(pair) if pair in mine else row for pair, row in enumerate(inverse)]
        padded = -(-len(mine) // block_rows) * block_rows
        rows += mine + [22] * (padded - len(mine))
        blocks += [expert] * (padded // block_rows)
    ours = align_ref(ids, num_experts, block_rows)
    assert ours[0].tolist()[: len(rows)] == rows
    assert ours[1].tolist()[: len(blocks)] == blocks
    assert ours[3].tolist() == inverse
    assert ours[2].tolist() == [len(rows), sum(row >= 0 for row in inverse)]


@pytest.mark.parametrize(
    ("num_pairs", "num_experts", "block_rows"), [(0, 4, 8), (3, 8, 4), (9, 2, 4), (30, 7, 1), (64, 4, 16)]
)
def test_capacity_is_reached_and_never_exceeded(num_pairs: int, num_experts: int, block_rows: int):
    bound = capacity(num_pairs, num_experts, block_rows)
    active = min(num_pairs, num_experts)
    worst = [1] * active
    for _ in range(num_pairs - active):
        # Fill the fullest block first: the next pair then opens a new one.
        worst[0] += 1
    assert sum(-(-count // block_rows) * block_rows for count in worst) == bound


@pytest.mark.parametrize(
    ("ids", "num_experts", "block_rows", "extra", "message"),
    [
        (torch.zeros(2, 2), 4, 8, {}, "int32"),
        (torch.zeros(4, dtype=torch.int32), 4, 8, {}, r"\[T, A\]"),
        (torch.zeros(2, 2, dtype=torch.int32), 0, 8, {}, "num_experts 0"),
        (torch.zeros(2, 2, dtype=torch.int32), 4, 12, {}, "power of two"),
        (torch.zeros(2, 2, dtype=torch.int32), 4, 8, {"expert_map": torch.zeros(4)}, "expert_map"),
        (
            torch.zeros(2, 2, dtype=torch.int32),
            4,
            8,
            {"expert_map": torch.zeros(8, dtype=torch.int32)[::2]},
            "contiguous",
        ),
    ],
)
def test_bad_input_is_named(ids: torch.Tensor, num_experts: int, block_rows: int, extra: dict, message: str):
    with pytest.raises(ValueError, match=message):
        moe_align(ids, num_experts, block_rows, **extra)


def test_op_has_a_fake_version_with_the_same_shapes():
    arguments = (random_ids(6, 2, -1, 8), 8, 16, None, None)
    torch.library.opcheck(torch.ops.proa.moe_align.default, arguments, test_utils=("test_schema", "test_faketensor"))
