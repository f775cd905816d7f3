"""A scheduler with a toy model, whose next token is a pure function of all tokens before it.

Any wrong position, lost token or double step changes the output.
"""

from __future__ import annotations

from proa_workers.core.block_pool import BlockPool
from proa_workers.core.outcome import Outcome
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow, StepOutput, StepPlan
from proa_workers.core.scheduler import Fetch, Limits, Scheduler
from proa_workers.core.sequence import Sequence

BLOCK = 4


def make(seq_id: int, prompt: list[int], max_tokens: int = 3, **fields: object) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    row = SampleRow(params=params, seed=0, prompt_ids=prompt, output_ids=[], eos_token_ids=(0,))
    return Sequence(seq_id=seq_id, request_id=f"r{seq_id}", row=row, **fields)


def make_scheduler(num_blocks: int = 16, **changes: int) -> Scheduler:
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 8, "max_model_len": 40, "max_num_waiting": 100} | changes
    return Scheduler(BlockPool(num_blocks, BLOCK), Limits(**limits))


def next_token(tokens: list[int]) -> int:
    return (sum((i + 1) * token for i, token in enumerate(tokens)) * 31 + len(tokens)) % 97 + 1


class ToyEngine:
    """KV pool of token ids: a step writes its rows and samples from the rows it reads back through the table."""

    def __init__(self, num_blocks: int) -> None:
        self.rows = [[0] * BLOCK for _ in range(num_blocks)]

    def step(self, plan: StepPlan) -> StepOutput:
        for piece in plan.slices:
            for position, token in enumerate(piece.token_ids, piece.start):
                self.rows[piece.block_table[position // BLOCK]][position % BLOCK] = token
        return StepOutput(sampled=tuple(self._sample(piece) for piece in plan.slices))

    def receive(self, fetch: Fetch, *, is_good: bool) -> None:
        """What a transfer writes: the prompt's rows, or anything when it fails."""
        prompt = fetch.seq.row.prompt_ids
        for i, block in enumerate(fetch.block_ids, fetch.first_block):
            rows = prompt[i * BLOCK : (i + 1) * BLOCK] if is_good else []
            self.rows[block] = rows + [-1] * (BLOCK - len(rows))

    def _sample(self, piece) -> Sampled | None:
        if piece.row is None:
            return None
        context = [self.rows[piece.block_table[i // BLOCK]][i % BLOCK] for i in range(piece.end)]
        return Sampled(token_id=next_token(context))


def shape(plan: StepPlan | None) -> list[tuple[int, int, int]]:
    return [] if plan is None else [(p.seq_id, p.start, len(p.token_ids)) for p in plan.slices]


def run(scheduler: Scheduler, engine: ToyEngine, max_steps: int = 2000) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for _ in range(max_steps):
        turn = scheduler.schedule()
        outcomes += turn.outcomes
        if turn.plan is not None:
            assert turn.plan.num_tokens <= scheduler.limits.max_num_batched_tokens
            outcomes += scheduler.commit(turn.plan, engine.step(turn.plan))
        scheduler.pool.check()
        if scheduler.is_idle:
            return outcomes
    raise AssertionError("the scheduler does not come to rest")
