"""Stop strings, found in the bytes that the tokens spell, as they arrive.

UTF-8 is self-synchronising: a stop string's bytes occur in the output's bytes exactly where its characters occur in
the text, so half characters at token edges need no care. Which match is found depends on the text alone, never on how
it was cut into tokens: the one that is complete first, and of those that end together the one that starts first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from proa_workers.sampling.token_bytes import TokenBytes, load_tokenizer, token_bytes

__all__ = ["StopMatch", "StopStrings", "load_tokenizer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMatch:
    """Where a stop string ended: `num_bytes_beyond` bytes of the last token follow it.

    The last `num_whole_tokens` tokens spell nothing that stands before the match: an output without the stop string can
    drop them. The token before those, if it holds the match's start, also spells `num_bytes_shared` bytes of it.
    """

    stop: str
    num_bytes_beyond: int
    num_whole_tokens: int
    num_bytes_shared: int


class StopStrings:
    """Watches one output; costs O(new bytes) a token for each stop string."""

    def __init__(self, tokenizer: Tokenizer | TokenBytes, stops: Sequence[str]) -> None:
        self._bytes_of = token_bytes(tokenizer) if isinstance(tokenizer, Tokenizer) else tokenizer
        self._stops = [(stop, stop.encode()) for stop in stops]
        self._keep = max((len(b) for _, b in self._stops), default=1) - 1
        self._tail = b""
        self._lengths: deque[int] = deque()  # bytes of the latest tokens; together at least the tail
        self._num_held = 0  # sum of _lengths
        self.match: StopMatch | None = None  # of the last `append`

    def append(self, token_id: int) -> str | None:
        """Take one more token; the stop string that it completes, if any (details in `match`)."""
        new = self._bytes_of(token_id)
        window = self._tail + new
        self._lengths.append(len(new))
        self._num_held += len(new)
        found = self._find(window)
        self.match = self._describe(window, *found) if found else None
        self._tail = window[max(len(window) - self._keep, 0) :]
        while self._num_held - self._lengths[0] >= len(self._tail) and len(self._lengths) > 1:
            self._num_held -= self._lengths.popleft()
        return self.match.stop if self.match else None

    def _find(self, window: bytes) -> tuple[str, int, int] | None:
        """(stop, start, end) of the first match that ends in the new bytes."""
        matches = []
        for stop, needle in self._stops:
            start = window.find(needle, max(len(self._tail) - len(needle) + 1, 0))
            if start >= 0:
                matches.append((start + len(needle), start, stop))
        if not matches:
            return None
        end, start, stop = min(matches)
        return stop, start, end

    def _describe(self, window: bytes, stop: str, start: int, end: int) -> StopMatch:
        from_start, num_whole, num_bytes = len(window) - start, 0, 0
        for length in reversed(self._lengths):
            if num_bytes + length > from_start:
                break
            num_whole, num_bytes = num_whole + 1, num_bytes + length
        return StopMatch(
            stop=stop,
            num_bytes_beyond=len(window) - end,
            num_whole_tokens=num_whole,
            num_bytes_shared=from_start - num_bytes,
        )
