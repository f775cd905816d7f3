"""align & sort: token-expert pairs grouped by expert in whole blocks, as the grouped products want them.

Legend: T tokens, A experts per token, N = T * A pairs (pair n belongs to token n // A), E experts held here,
R row capacity, M rows of a block, B = R / M blocks.

Pairs keep their order inside an expert (a stable sort), so equal inputs give equal bits. Sizes come from shapes and
counts stay on the device: the op can be captured in a graph. Rows past the padded total are never written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proa_kernels.align_native import launch_align_native, serves_align
from proa_kernels.arch import arm_for

MAX_EXPERTS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """All int32. `rows_R` holds pair numbers, N where a block is padded; `expert_B` the expert of each block.

    `totals_2` = padded rows, kept pairs: later rows and blocks are undefined. `inverse_N` is the row of each pair,
    -1 if it was dropped; `counts_E` the pairs of each expert.
    """

    rows_R: torch.Tensor
    expert_B: torch.Tensor
    totals_2: torch.Tensor
    inverse_N: torch.Tensor
    counts_E: torch.Tensor

    @classmethod
    def of(cls, tensors: tuple[torch.Tensor, ...]) -> Alignment:
        rows_R, expert_B, totals_2, inverse_N, counts_E = tensors
        return cls(rows_R=rows_R, expert_B=expert_B, totals_2=totals_2, inverse_N=inverse_N, counts_E=counts_E)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.rows_R, self.expert_B, self.totals_2, self.inverse_N, self.counts_E


def capacity(num_pairs: int, num_experts: int, block_rows: int) -> int:
    """Most rows that `num_pairs` can need: M (A + floor((N - A) / M)) with A = min(N, E) experts in use.

    A experts with one pair each need A blocks, and each further M pairs can open one block more: the bound is reached.
    """
    active = min(num_pairs, num_experts)
    return block_rows * (active + (num_pairs - active) // block_rows)


def empty_alignment(num_pairs: int, num_experts: int, block_rows: int, device: torch.device) -> Alignment:
    """Unwritten outputs of the right sizes, to be given to `launch_align` again and again."""
    rows = capacity(num_pairs, num_experts, block_rows)
    sizes = (rows, rows // block_rows, 2, num_pairs, num_experts)
    return Alignment.of(tuple(torch.empty(n, dtype=torch.int32, device=device) for n in sizes))


def moe_align(
    ids_TA: torch.Tensor,
    num_experts: int,
    block_rows: int,
    *,
    expert_map: torch.Tensor | None = None,
    num_tokens: torch.Tensor | None = None,
) -> Alignment:
    """Group the pairs of `ids_TA` (int32, contiguous) by expert.

    Ids outside the experts are dropped. `expert_map` (int32, one entry for each id of the model) turns ids into local
    experts first, -1 drops; `num_tokens` (int32, one element, on the device) drops all tokens from that one on.
    Raises ValueError for wrong dtypes, shapes, devices or sizes.
    """
    _check(ids_TA, num_experts, block_rows, expert_map, num_tokens)
    return Alignment.of(torch.ops.proa.moe_align(ids_TA, num_experts, block_rows, expert_map, num_tokens))


def _check(
    ids_TA: torch.Tensor,
    num_experts: int,
    block_rows: int,
    expert_map: torch.Tensor | None,
    num_tokens: torch.Tensor | None,
) -> None:
    if ids_TA.dim() != 2 or ids_TA.dtype != torch.int32 or not ids_TA.is_contiguous():
        raise ValueError(f"ids must be contiguous int32 [T, A], not {ids_TA.dtype} {tuple(ids_TA.shape)}")
    if not 1 <= num_experts <= MAX_EXPERTS:
        raise ValueError(f"num_experts {num_experts} is not within 1..{MAX_EXPERTS}")
    if block_rows < 1 or block_rows & (block_rows - 1):
        raise ValueError(f"block_rows {block_rows} is not a power of two")
    for name, tensor in (("expert_map", expert_map), ("num_tokens", num_tokens)):
        is_flat = tensor is None or (tensor.dim() < 2 and tensor.is_contiguous())
        if not is_flat or (tensor is not None and (tensor.dtype != torch.int32 or tensor.device != ids_TA.device)):
            raise ValueError(f"{name} must be a flat contiguous int32 tensor on {ids_TA.device}")


def align_ref(
    ids_TA: torch.Tensor,
    num_experts: int,
    block_rows: int,
    expert_map: torch.Tensor | None = None,
    num_tokens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """The same in plain torch, with the rows past the total set to N and the blocks past it to -1."""
    expert_N = _local_experts(ids_TA, num_experts, expert_map, num_tokens)
    num_pairs, device = expert_N.numel(), expert_N.device
    order_K = torch.sort(expert_N, stable=True).indices[int((expert_N < 0).sum()) :]
    counts_E = torch.bincount(expert_N[expert_N >= 0], minlength=num_experts)
    padded_E = (counts_E + block_rows - 1) // block_rows * block_rows
    shift_E = (padded_E.cumsum(0) - padded_E) - (counts_E.cumsum(0) - counts_E)
    position_K = torch.arange(order_K.numel(), device=device) + shift_E[expert_N[order_K]]
    rows_R = torch.full((capacity(num_pairs, num_experts, block_rows),), num_pairs, device=device)
    rows_R[position_K] = order_K
    inverse_N = torch.full((num_pairs,), -1, device=device)
    inverse_N[order_K] = position_K
    expert_B = torch.full((rows_R.numel() // block_rows,), -1, device=device)
    filled = torch.repeat_interleave(torch.arange(num_experts, device=device), padded_E // block_rows)
    expert_B[: filled.numel()] = filled
    totals_2 = torch.stack([padded_E.sum(), counts_E.sum()])
    return tuple(t.to(torch.int32) for t in (rows_R, expert_B, totals_2, inverse_N, counts_E))


def _local_experts(
    ids_TA: torch.Tensor, num_experts: int, expert_map: torch.Tensor | None, num_tokens: torch.Tensor | None
) -> torch.Tensor:
    """Expert of every pair as int64 [N], -1 where the pair is dropped."""
    ids = ids_TA.long()
    if expert_map is not None:
        is_known = (ids >= 0) & (ids < expert_map.numel())
        ids = torch.where(is_known, expert_map.long()[torch.where(is_known, ids, 0)], -1)
    is_kept = (ids >= 0) & (ids < num_experts)
    if num_tokens is not None:
        is_kept &= torch.arange(ids.shape[0], device=ids.device)[:, None] < num_tokens
    return torch.where(is_kept, ids, -1).flatten()


@torch.library.custom_op(
    "proa::moe_align",
    mutates_args=(),
    schema="(Tensor ids, SymInt num_experts, SymInt block_rows, Tensor? expert_map, Tensor? num_tokens)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _moe_align_op(
    ids: torch.Tensor,
    num_experts: int,
    block_rows: int,
    expert_map: torch.Tensor | None,
    num_tokens: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    arm = arm_for("moe_align", ids.device)
    if arm == "reference":
        return align_ref(ids, num_experts, block_rows, expert_map, num_tokens)
    outputs = empty_alignment(ids.numel(), num_experts, block_rows, ids.device).tensors()
    if arm == "native" and serves_align(ids, num_experts):
        launch_align_native(ids, block_rows, expert_map, num_tokens, outputs)
        return outputs
    from proa_kernels.moe_align_triton import launch_align  # the reference needs no Triton

    launch_align(ids, block_rows, expert_map, num_tokens, outputs)
    return outputs


@_moe_align_op.register_fake
def _moe_align_fake(
    ids: torch.Tensor,
    num_experts: int,
    block_rows: int,
    expert_map: torch.Tensor | None,
    num_tokens: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    return empty_alignment(ids.numel(), num_experts, block_rows, ids.device).tensors()
