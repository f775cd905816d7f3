"""What became of a sequence in a step: a token, an end, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proa_workers.core.plan import GrammarState, Sampled, SampleRow
from proa_workers.core.sequence import Sequence

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Why an output ended; `matched` is the stop token id or stop string, `why` what the request itself broke."""

    reason: FinishReason
    matched: int | str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`sampled` is the step's token (None: ended without one); `pinned` are the blocks of a hand-off's lease."""

    seq: Sequence
    sampled: Sampled | None = None
    finish: Finish | None = None
    pinned: tuple[int, ...] = ()


def judge(seq: Sequence, sampled: Sampled, max_model_len: int) -> Outcome:
    """Append a sampled token to the output and decide whether the output ends with it."""
    token = sampled.token_id
    seq.row.output_ids.append(token)
    matched = seq.stop.append(token) if seq.stop is not None else None
    finish = _stop(seq, token, matched) or _length(seq, max_model_len)
    if seq.row.grammar is not None:
        finish = _constrain(seq.row, seq.row.grammar, token, finish)
    return Outcome(seq=seq, sampled=sampled, finish=finish)


def _constrain(row: SampleRow, grammar: GrammarState, token: int, finish: Finish | None) -> Finish | None:
    """Advance the grammar; an output whose grammar gave up ends with an error, whatever else ended it.

    A grammar that is complete allows an end token only. Where that is not to end the output, the output ends at once.
    """
    if finish is None:
        grammar.accept(token)
    if grammar.failure:
        return Finish(reason="error", why=grammar.failure)
    may_not_end = row.params.ignore_eos or len(row.output_ids) < row.params.min_tokens
    if finish is None and may_not_end and grammar.is_finished():
        return Finish(reason="stop")
    return finish


def _stop(seq: Sequence, token: int, matched: str | None) -> Finish | None:
    row = seq.row
    if len(row.output_ids) < row.params.min_tokens:
        return None
    if token in row.params.stop_token_ids:
        return Finish(reason="stop", matched=token)
    if not row.params.ignore_eos and token in row.eos_token_ids:
        return Finish(reason="stop")
    return Finish(reason="stop", matched=matched) if matched is not None else None


def _length(seq: Sequence, max_model_len: int) -> Finish | None:
    return Finish(reason="length") if is_full(seq, max_model_len) else None


def is_full(seq: Sequence, max_model_len: int, num_unread: int = 0) -> bool:
    """Whether the output must end, for its length, after `num_unread` more tokens."""
    num_output, num_tokens = len(seq.row.output_ids) + num_unread, seq.num_tokens + num_unread
    return num_output >= seq.row.params.max_tokens or num_tokens >= max_model_len
