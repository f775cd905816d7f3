"""Reads an OpenAI event stream from raw bytes and keeps when text arrived. Pure: the caller brings the clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "tool_calls")


@dataclass(slots=True, kw_only=True)
class StreamLog:
    """Events of one response so far.

    chunk_seconds, finish_seconds: as in RequestRecord. is_done: the end mark `[DONE]` was seen.
    error: what an `error` event or an unreadable event said.
    """

    chunk_seconds: list[float] = field(default_factory=list)
    finish_seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    is_done: bool = False
    error: str | None = None
    _rest: bytes = b""

    def feed(self, raw: bytes, now_seconds: float) -> None:
        """Takes bytes that arrived at `now_seconds`; all events completed by them carry that time."""
        *lines, self._rest = (self._rest + raw).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now_seconds)

    def _event(self, payload: bytes, now_seconds: float) -> None:
        if payload == b"[DONE]":
            self.is_done = True
            return
        try:
            event = json.loads(payload)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            self.error = self.error or f"an event that is no JSON object: {payload[:80]!r}"
        elif "error" in event:
            self.error = self.error or error_text(event["error"])
        else:
            self._take(event, now_seconds)

    def _take(self, event: dict[str, Any], now_seconds: float) -> None:
        choices = event.get("choices")
        if choices:
            self.finish_seconds = now_seconds
            if _has_text(choices[0]):
                self.chunk_seconds.append(now_seconds)
        if usage := event.get("usage"):
            self.input_tokens = usage.get("prompt_tokens")
            self.output_tokens = usage.get("completion_tokens")


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text"))
    return any(delta.get(name) for name in TEXT_FIELDS)


def error_text(error: object) -> str:
    """One line from an OpenAI error object: its message, else its type, else all of it."""
    text: object = error
    if isinstance(error, dict):
        text = error.get("message") or error.get("type") or json.dumps(error)
    return " ".join(str(text).split())[:200]
