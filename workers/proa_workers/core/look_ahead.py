"""The step after one that still runs: decodes whose tokens nobody has read yet.

A device that waits for the host to read tokens, plan and send inputs idles for up to a millisecond a step. A plan made
ahead avoids that: everything but the token values is known beforehand. What it cannot know are ends by a stop token or
stop string; such a sequence computes one row for nothing, which `Scheduler.commit` skips. The row lies behind its last
published block, and whoever gets the block next writes after it (steps run in order).
"""

from __future__ import annotations

from proa_workers.core.outcome import is_full
from proa_workers.core.plan import UNREAD, SeqSlice, StepPlan
from proa_workers.core.scheduler import Scheduler
from proa_workers.core.sequence import Sequence


def plan_ahead(scheduler: Scheduler, plan: StepPlan) -> StepPlan | None:
    """The plan that follows `plan`, which was launched and not committed; its blocks are allocated.

    None where `Scheduler.schedule` must decide after the commit: a sequence could join or still prefills, blocks are
    short, a sampler needs the tokens themselves (`SampleRow.needs_tokens`), or all outputs end.
    """
    sampling = {piece.seq_id: i for i, piece in enumerate(plan.slices) if piece.row is not None}
    if any(seq.seq_id not in sampling or seq.row.needs_tokens for seq in scheduler.running):
        return None
    longest = scheduler.limits.max_model_len
    going = [seq for seq in scheduler.running if not is_full(seq, longest, num_unread=1)]
    if not 0 < len(going) <= scheduler.limits.max_num_batched_tokens or scheduler.can_admit():
        return None
    if not _take_blocks(scheduler, going):
        return None
    return StepPlan(
        step_id=scheduler.next_step_id(),
        slices=tuple(_next_slice(seq) for seq in going),
        follows=tuple(sampling[seq.seq_id] for seq in going),
    )


def _take_blocks(scheduler: Scheduler, seqs: list[Sequence]) -> bool:
    """Room for one more row of each; False, and nothing taken, when too few blocks are free."""
    size, pool = scheduler.pool.block_tokens, scheduler.pool
    short = [seq for seq in seqs if seq.num_tokens // size >= len(seq.block_ids)]
    if len(short) > pool.num_free:
        return False
    for seq, block in zip(short, pool.allocate(len(short)), strict=True):
        seq.append_blocks([block])
    return True


def _next_slice(seq: Sequence) -> SeqSlice:
    return SeqSlice(
        seq_id=seq.seq_id, token_ids=[UNREAD], start=seq.num_tokens, block_table=seq.block_table, row=seq.row
    )
