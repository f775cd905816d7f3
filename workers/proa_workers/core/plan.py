"""What one engine step does and what it gives back: plain values between scheduler and engine.

Sizes: a slice is a run of consecutive tokens of one sequence; its KV rows go to positions start .. start+len-1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from proa_workers.core.params import SamplingParams


def unread(i: int) -> int:
    """Stands, in a plan made ahead, for the token that slice `i` of the plan before samples: nobody has read it yet."""
    return -1 - i


class GrammarState(Protocol):
    """Token-level automaton of a structured output (one per sequence)."""

    def fill_mask(self, row: npt.NDArray[np.int32]) -> bool:
        """Write allowed tokens as bits (word i, bit j = token 32*i + j); False = everything is allowed."""

    def accept(self, token_id: int) -> None:
        """Advance by one sampled token."""

    def is_finished(self) -> bool:
        """True when the output is complete, so that only end-of-sequence may follow."""

    @property
    def failure(self) -> str | None:
        """Why the grammar gave up in mid-output; None while it works."""


@dataclass(slots=True, kw_only=True, eq=False)
class SampleRow:
    """Sampling state of one sequence; the scheduler appends to `output_ids`, the sampler only reads.

    `seed` and len(output_ids) alone determine the random draw (counter-based), so that preemption, batching and a move
    to another worker cannot change a seeded output.
    """

    params: SamplingParams
    seed: int
    prompt_ids: list[int]
    output_ids: list[int]
    eos_token_ids: tuple[int, ...]
    grammar: GrammarState | None = None

    @property
    def needs_tokens(self) -> bool:
        """Whether the host must know all tokens before the next one can be drawn."""
        return self.grammar is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeqSlice:
    """`token_ids` of one sequence to compute, at positions start..; `block_table` covers start + len(token_ids).

    The only token of a slice may be `unread`.
    """

    seq_id: int
    token_ids: list[int]
    start: int
    block_table: npt.NDArray[np.int32]
    row: SampleRow | None  # None: no logits wanted (a chunk that is not the prompt's last, or a hand-off)

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def is_unread(self) -> bool:
        return self.token_ids[0] < 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepPlan:
    step_id: int
    slices: tuple[SeqSlice, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(s.token_ids) for s in self.slices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One sampled token; `top` are (token_id, logprob) of the most likely ones, best first (as many as asked)."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """`sampled[i]` belongs to `plan.slices[i]`; None where that slice wanted no logits."""

    sampled: tuple[Sampled | None, ...] = field(default=())
