"""One streamed question over the OpenAI API."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from proa_operator.errors import ServeError

ANSWER_SECONDS = 120.0
MAX_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was measured on one streamed answer."""

    text: str
    num_tokens: int
    """Completion tokens, as the server counts them."""
    ttft_seconds: float
    """From sending the request to the first text."""
    decode_seconds: float
    """From the first text to the last."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first, over the time after the first; 0 for an answer of one token."""
        return (self.num_tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0


async def ask(url: str, model: str, question: str, on_text: Callable[[str], None]) -> Answer:
    """Asks and hands each piece of text to `on_text` as it comes. Raises ServeError when the stream fails."""
    pieces: list[str] = []
    times: list[float] = []
    num_tokens = 0
    started = time.perf_counter()
    async for event in _stream(url, _body(model, question)):
        num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
        text = _text(event)
        if text:
            times.append(time.perf_counter())
            pieces.append(text)
            on_text(text)
    if not times:
        raise ServeError("the answer was empty")
    return Answer(
        text="".join(pieces),
        num_tokens=num_tokens,
        ttft_seconds=times[0] - started,
        decode_seconds=times[-1] - times[0],
    )


def _body(model: str, question: str) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _stream(url: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of one streamed completion."""
    try:
        async with (
            httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as client,
            client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer,
        ):
            if answer.status_code != 200:
                raise ServeError(f"the gateway answered {answer.status_code}: {(await answer.aread()).decode()[:300]}")
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))
    except httpx.HTTPError as error:
        raise ServeError(f"the question failed: {error or type(error).__name__}") from None


def _text(event: dict[str, Any]) -> str:
    if "error" in event:  # smg reports a stream that was cut with status 200 and an event
        raise ServeError(f"the answer was cut: {event['error']}")
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
