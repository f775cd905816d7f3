"""Tokens of a simulated model: a deterministic function of the prefix that respects the request's settings."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from proa_workers.core.plan import GrammarState, Sampled, SampleRow
from proa_workers.errors import CheckpointError
from proa_workers.sampling.draw import mix64_int
from proa_workers.sampling.token_bytes import token_bytes

_END_SALT = 0x5851F42D4C957F2D


def readable_tokens(tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """Ids whose bytes are letters with at most a leading space; CheckpointError when there are none."""
    bytes_of = token_bytes(tokenizer)
    ids = [i for i in range(vocab_size) if bytes_of(i).isascii() and bytes_of(i).removeprefix(b" ").isalpha()]
    if not ids:
        raise CheckpointError("the tokenizer has no token of plain letters; give --model another tokenizer")
    return ids


class TokenSource:
    """Chooses the next token from the hash of the whole prefix; never an end token unless told to end."""

    def __init__(self, readable: list[int], vocab_size: int, mean_output_tokens: float) -> None:
        self._readable = readable
        self._vocab_size = vocab_size
        self._end_chance = 1 / mean_output_tokens if mean_output_tokens else 0.0

    def next(self, prefix: int, row: SampleRow) -> Sampled:
        """Token after a prefix with this hash; its logprobs have the shape asked for (ln 2 apart, invented)."""
        if row.grammar is not None and (allowed := self._allowed(row.grammar)) is not None:
            token = self._constrained(prefix, row, allowed)
        elif self._ends(prefix, row):
            token = row.eos_token_ids[0]
        else:
            token = self._ordinary(prefix, row)
        return self._with_logprobs(token, prefix, row)

    def _ends(self, prefix: int, row: SampleRow) -> bool:
        may_end = row.eos_token_ids and not row.params.ignore_eos and len(row.output_ids) >= row.params.min_tokens
        return bool(may_end) and mix64_int(prefix ^ _END_SALT) < self._end_chance * 2**64

    def _ordinary(self, prefix: int, row: SampleRow) -> int:
        first = mix64_int(prefix) % len(self._readable)
        if len(row.output_ids) >= row.params.min_tokens:
            return self._readable[first]
        order = self._readable[first:] + self._readable[:first]
        return next((token for token in order if token not in row.params.stop_token_ids), order[0])

    def _allowed(self, grammar: GrammarState) -> npt.NDArray[np.int64] | None:
        words = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        if not grammar.fill_mask(words):
            return None
        allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[: self._vocab_size])
        assert len(allowed), "the grammar allows no token"
        return allowed

    def _constrained(self, prefix: int, row: SampleRow, allowed: npt.NDArray[np.int64]) -> int:
        """End as soon as the grammar lets it: random text would hardly ever close its brackets."""
        ends = [token for token in row.eos_token_ids if token in allowed]
        return ends[0] if ends else int(allowed[mix64_int(prefix) % len(allowed)])

    def _with_logprobs(self, token: int, prefix: int, row: SampleRow) -> Sampled:
        wanted = row.params.logprobs
        if wanted is None:
            return Sampled(token_id=token)
        first = mix64_int(prefix) % len(self._readable)
        others = [t for t in (self._readable[first:] + self._readable[:first])[: wanted + 1] if t != token]
        ranked = [token, *others][:wanted]
        top = tuple((t, -(i + 1) * math.log(2)) for i, t in enumerate(ranked))
        return Sampled(token_id=token, logprob=-math.log(2), top=top)
