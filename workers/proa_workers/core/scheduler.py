"""Which tokens the next step computes: continuous batching with chunked prefill, prefix cache and preemption.

First come, first served. Running sequences go first, those that decode before those that still prefill; then waiting
ones are admitted while the token budget, the sequence limit and the free blocks allow. When a running sequence finds no
block, the youngest other one is preempted and will be recomputed. Pure: no clock, no threads, no tensors.

A step may be planned while the one before is on its way (`schedule(before=...)`): all but the values of the tokens that
it samples is known, and whether one of them ends its output by what it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from proa_workers.core.block_pool import ROOT_HASH, BlockPool
from proa_workers.core.outcome import Finish, Outcome, is_full, judge
from proa_workers.core.plan import SeqSlice, StepOutput, StepPlan, unread
from proa_workers.core.sequence import Phase, Sequence
from proa_workers.errors import InvalidRequest, Saturated


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one worker: sequences at once, tokens a step, tokens of a sequence, sequences that may wait."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    max_num_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Blocks reserved for KV rows of a peer: fill `block_ids` from the peer's block `first_block` on."""

    seq: Sequence
    block_ids: tuple[int, ...]
    first_block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What `schedule` decided: a plan (None: nothing to compute), transfers to start, sequences done without a step."""

    plan: StepPlan | None
    fetches: tuple[Fetch, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


class Scheduler:
    """Owns the sequences and, through the pool, the blocks; driven as schedule -> engine step -> commit."""

    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        self.pool = pool
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.fetching: dict[int, Sequence] = {}
        self.num_preemptions = 0
        self._step_id = 0
        self._planned: dict[int, Sequence] = {}  # of the step that is planned now, by seq_id
        self._flying: dict[int, dict[int, Sequence]] = {}  # the same of steps on their way, by step_id
        self._unread: dict[int, int] = {}  # what stands for the token that is sampled now, by seq_id

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.running or self.fetching)

    def add(self, seqs: Seq[Sequence]) -> None:
        """Queue all sequences of one request; InvalidRequest when it can never fit, Saturated when too many wait."""
        longest = self.limits.max_model_len - 1
        for seq in seqs:
            if seq.num_prompt == 0:
                raise InvalidRequest("the prompt is empty: send at least one token")
            if seq.num_prompt > longest:
                raise InvalidRequest(f"the prompt has {seq.num_prompt} tokens, this worker takes at most {longest}")
        if len(seqs) > self.limits.max_num_waiting:
            raise InvalidRequest(f"n is {len(seqs)}, this worker lets at most {self.limits.max_num_waiting} wait")
        if len(self.waiting) + len(seqs) > self.limits.max_num_waiting:
            raise Saturated(f"{len(self.waiting)} requests wait already: retry on another worker")
        self.waiting.extend(seqs)

    def schedule(self, before: StepPlan | None = None) -> Turn:
        """Decide the next step. Blocks of every slice are allocated when this returns.

        With `before`, the last plan, whose step is on its way: decide ahead of its commit. Nothing is preempted then:
        an empty turn where that would be needed, where the host must know unread tokens, or nothing is left to do.
        """
        self._planned = {}
        self._unread = {} if before is None else {piece.seq_id: unread(i) for i, piece in enumerate(before.slices)}
        if any(seq.num_unread and seq.row.needs_tokens for seq in self.running):
            return Turn(plan=None)
        slices: list[SeqSlice] = []
        fetches: list[Fetch] = []
        outcomes: list[Outcome] = []
        num_preemptions = self.num_preemptions
        budget = self._continue_running(slices, may_preempt=before is None)
        if budget is None:
            return Turn(plan=None)
        if self.num_preemptions == num_preemptions:
            self._admit(budget, slices, fetches, outcomes)
        plan = self._take_off(slices) if slices else None
        return Turn(plan=plan, fetches=tuple(fetches), outcomes=tuple(outcomes))

    def _take_off(self, slices: list[SeqSlice]) -> StepPlan:
        self._step_id += 1
        self._flying[self._step_id] = self._planned
        for piece in slices:
            seq = self._planned[piece.seq_id]
            seq.num_flying += len(piece.token_ids)
            seq.num_unread += piece.row is not None
        return StepPlan(step_id=self._step_id, slices=tuple(slices))

    def commit(self, plan: StepPlan, output: StepOutput) -> list[Outcome]:
        """Apply a step: advance, publish full blocks, judge sampled tokens, finish what is done.

        Steps are committed in the order of their plans. A sequence that has ended meanwhile was computed for nothing:
        its row lies behind its last published block, and whoever gets that block writes later.
        """
        outcomes: list[Outcome] = []
        planned = self._flying.pop(plan.step_id)
        for piece, sampled in zip(plan.slices, output.sampled, strict=True):
            seq = planned[piece.seq_id]
            if seq.phase is not Phase.RUNNING:
                continue
            seq.num_flying -= len(piece.token_ids)
            seq.num_unread -= piece.row is not None
            seq.num_computed += len(piece.token_ids)
            self._publish(seq)
            if sampled is not None:
                outcomes.append(judge(seq, sampled, self.limits.max_model_len))
            elif seq.is_hand_off and seq.num_computed == seq.num_target:
                outcomes.append(self._hand_off(seq))
            if outcomes and outcomes[-1].seq is seq and outcomes[-1].finish is not None:
                self._finish(seq)
        return outcomes

    def planned(self, plan: StepPlan) -> list[Sequence]:
        """The sequences of a plan that was not committed yet."""
        return list(self._flying[plan.step_id].values())

    def fetched(self, seq_id: int, *, is_good: bool, may_recompute: bool = True) -> Outcome | None:
        """A transfer ended: run on with the rows it brought, or without them (recompute), or finish with an error.

        Returns the Outcome when the sequence ends here: aborted while the transfer still wrote, or failed.
        """
        seq = self.fetching.pop(seq_id)
        if seq.phase is Phase.FINISHED:  # aborted: its blocks could not be freed while they were written
            self.pool.release(seq.drop_blocks())
            return None
        if is_good:
            seq.num_fetched = seq.num_remote_tokens - seq.num_computed
            seq.num_computed = seq.num_remote_tokens
            self._publish(seq)
        elif not may_recompute:
            self._finish(seq)
            return Outcome(seq=seq, finish=Finish(reason="error"))
        seq.num_remote_tokens = 0
        seq.phase = Phase.RUNNING
        self.running.append(seq)
        return None

    def abort(self, request_id: str) -> list[Sequence]:
        """End every sequence of a request; blocks that a transfer is writing are freed by `fetched`."""
        everyone = (*self.running, *self.waiting, *self.fetching.values())
        found = [seq for seq in everyone if seq.request_id == request_id and seq.phase is not Phase.FINISHED]
        for seq in found:
            if seq.phase is Phase.WAITING:
                self.waiting.remove(seq)
            if seq.phase is Phase.FETCHING:
                seq.phase = Phase.FINISHED
            else:
                self._finish(seq)
        return found

    def _continue_running(self, slices: list[SeqSlice], *, may_preempt: bool) -> int | None:
        """Plan one more piece of every running sequence; the token budget that is left, None without enough blocks."""
        budget = self.limits.max_num_batched_tokens
        for seq in sorted(self.running, key=lambda seq: seq.num_pending > 1):
            count = min(seq.num_pending, budget)
            is_last_unread = seq.num_unread and is_full(seq, self.limits.max_model_len, seq.num_unread)
            if not count or seq.phase is not Phase.RUNNING or is_last_unread:
                continue
            num_tokens = seq.num_computed + seq.num_flying + count
            missing = -(-num_tokens // self.pool.block_tokens) - len(seq.block_ids)
            if missing > self.pool.num_free and not may_preempt:
                return None
            if self._make_room(seq, missing):
                slices.append(self._slice(seq, count))
                budget -= count
        return budget

    def _admit(self, budget: int, slices: list[SeqSlice], fetches: list[Fetch], outcomes: list[Outcome]) -> None:
        skipped: list[Sequence] = []
        while self.waiting and budget > 0 and len(self.running) + len(self.fetching) < self.limits.max_num_seqs:
            seq = self.waiting.popleft()
            if seq.leader is not None and self._is_behind(seq.leader):
                skipped.append(seq)
                continue
            if not self._place(seq):
                skipped.append(seq)
                break
            if seq.phase is Phase.FETCHING:
                fetches.append(self._start_fetch(seq))
            elif seq.num_pending == 0:
                outcomes.append(self._hand_off(seq))
                self._finish(seq)
            else:
                count = min(seq.num_pending, budget)
                slices.append(self._slice(seq, count))
                budget -= count
        self.waiting.extendleft(reversed(skipped))

    def _is_behind(self, leader: Sequence) -> bool:
        return leader.phase is not Phase.FINISHED and leader.num_computed < leader.num_prompt

    def _place(self, seq: Sequence) -> bool:
        """Give a waiting sequence its cached prefix and blocks for all its tokens; False when too few are free."""
        size = self.pool.block_tokens
        usable = seq.num_target if seq.is_hand_off else seq.num_tokens - 1  # one token at least must be computed
        cached = self.pool.match(seq.hash_blocks(usable, size))
        num_needed = -(-max(seq.num_target, 1) // size) - len(cached)
        if num_needed > self.pool.num_free_beside(cached):
            return False
        self.pool.acquire(cached)
        seq.append_blocks(cached)
        seq.append_blocks(self.pool.allocate(max(num_needed, 0)))
        seq.num_computed = len(cached) * size
        seq.num_published = len(cached)
        if not seq.num_preemptions:
            seq.num_cached = seq.num_computed
        if seq.num_remote_tokens > seq.num_computed:
            seq.phase = Phase.FETCHING
            self.fetching[seq.seq_id] = seq
        else:
            seq.phase = Phase.RUNNING
            self.running.append(seq)
        return True

    def _start_fetch(self, seq: Sequence) -> Fetch:
        first = seq.num_computed // self.pool.block_tokens
        last = -(-seq.num_remote_tokens // self.pool.block_tokens)
        return Fetch(seq=seq, block_ids=tuple(seq.block_ids[first:last]), first_block=first)

    def _make_room(self, seq: Sequence, missing: int) -> bool:
        """Own so many more blocks, preempting the youngest unplanned sequence as often as needed."""
        while missing > self.pool.num_free:
            victim = next((other for other in reversed(self.running) if other.seq_id not in self._planned), seq)
            self._preempt(victim)
            if victim is seq:
                return False
        if missing > 0:
            seq.append_blocks(self.pool.allocate(missing))
        return True

    def _preempt(self, seq: Sequence) -> None:
        assert not seq.num_flying, f"a step on its way writes into blocks of sequence {seq.seq_id}"
        self.running.remove(seq)
        self.pool.release(seq.drop_blocks())
        seq.phase = Phase.WAITING
        seq.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(seq)

    def _slice(self, seq: Sequence, count: int) -> SeqSlice:
        self._planned[seq.seq_id] = seq
        start = seq.num_computed + seq.num_flying
        end = start + count
        return SeqSlice(
            seq_id=seq.seq_id,
            token_ids=seq.tokens(start, end) if start < seq.num_tokens else [self._unread[seq.seq_id]],
            start=start,
            block_table=seq.block_table,
            row=seq.row if end == seq.num_tokens + seq.num_unread else None,
        )

    def _publish(self, seq: Sequence) -> None:
        size = self.pool.block_tokens
        if seq.num_computed // size == seq.num_published:
            return
        hashes = seq.hash_blocks(seq.num_computed, size)
        for i in range(seq.num_published, len(hashes)):
            parent = hashes[i - 1] if i else ROOT_HASH
            self.pool.publish(seq.block_ids[i], parent, hashes[i], seq.tokens(i * size, (i + 1) * size))
        seq.num_published = len(hashes)

    def _hand_off(self, seq: Sequence) -> Outcome:
        blocks = tuple(seq.block_ids[: -(-seq.num_target // self.pool.block_tokens)])
        self.pool.pin(blocks)
        return Outcome(seq=seq, finish=Finish(reason="length"), pinned=blocks)

    def _finish(self, seq: Sequence) -> None:
        if seq.phase is Phase.RUNNING:
            self.running.remove(seq)
        seq.phase = Phase.FINISHED
        self.pool.release(seq.drop_blocks())
