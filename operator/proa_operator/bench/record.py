"""What one request left behind: raw times and counts, nothing derived. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a request ended."""

    OK = "ok"
    FAILED = "failed"  # no answer: HTTP error, refused connection, deadline before the first token
    CUT = "cut"  # an answer that broke off: an `error` event, a lost connection, no end mark


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """Times are seconds since the start of the run.

    chunk_seconds: arrival of each stream event that carried generated text (answer, reasoning or tool call);
    one event may carry several tokens, and a token may carry no text (a part of a character).
    finish_seconds: arrival of the last event of the generation (its finish reason or last text).
    end_seconds: the response was read to its end, or given up.
    input_tokens, output_tokens: the server's usage numbers (0 when there is no answer).
    due_seconds: when an open-loop schedule wanted it sent.
    """

    request_idx: int
    status: Status
    send_seconds: float
    end_seconds: float
    chunk_seconds: tuple[float, ...] = ()
    finish_seconds: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    due_seconds: float | None = None
    error: str | None = None
