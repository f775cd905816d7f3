"""One streamed request to an OpenAI endpoint, timed at the arrival of each network chunk."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from proa_operator.bench.record import RequestRecord, Status
from proa_operator.bench.sse import StreamLog, error_text

CONNECT_ONLY = httpx.Timeout(None, connect=10.0)  # `ask` bounds the whole request


class Api(StrEnum):
    CHAT = "chat"
    COMPLETIONS = "completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where and how to ask. `url` without a trailing slash or `/v1`; `timeout_seconds` bounds a whole request."""

    url: str
    model: str
    api: Api = Api.CHAT
    api_key: str | None = None
    is_ignore_eos: bool = True
    timeout_seconds: float = 600.0

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.api is Api.CHAT else "/v1/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request that is ready to be written: everything that costs time is done before the send is timed."""

    request_idx: int
    http: httpx.Request
    due_seconds: float | None = None


def body(endpoint: Endpoint, prompt: str, output_tokens: int) -> dict[str, Any]:
    """The JSON body: greedy, streamed, with usage numbers."""
    fields: dict[str, Any] = {
        "model": endpoint.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    if endpoint.is_ignore_eos:
        fields["ignore_eos"] = True
    if endpoint.api is Api.CHAT:
        return fields | {"messages": [{"role": "user", "content": prompt}], "max_completion_tokens": output_tokens}
    return fields | {"prompt": prompt, "max_tokens": output_tokens}


def outgoing(
    endpoint: Endpoint, prompt: str, output_tokens: int, request_idx: int, due_seconds: float | None = None
) -> Outgoing:
    """The request with its body serialized."""
    http = httpx.Request(
        "POST",
        endpoint.url + endpoint.path,
        headers=headers(endpoint),
        json=body(endpoint, prompt, output_tokens),
        extensions={"timeout": CONNECT_ONLY.as_dict()},
    )
    return Outgoing(request_idx=request_idx, http=http, due_seconds=due_seconds)


def headers(endpoint: Endpoint) -> dict[str, str]:
    """No compression: it would hold events back."""
    key = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    return {"Accept": "text/event-stream", "Accept-Encoding": "identity"} | key


async def ask(client: httpx.AsyncClient, out: Outgoing, *, start: float, timeout_seconds: float) -> RequestRecord:
    """Sends `out` and reads its stream to the end; never raises for what the server or the network does.

    `start` is the `time.perf_counter()` of the start of the run.
    """
    log = StreamLog()
    send_seconds = time.perf_counter() - start
    error: str | None
    try:
        async with asyncio.timeout(timeout_seconds):
            error = await _read(client, out.http, log, start)
    except TimeoutError:
        error = f"no end within {timeout_seconds:g} s (--timeout)"
    except httpx.HTTPError as problem:
        error = f"{type(problem).__name__}: {problem}".removesuffix(": ")
    end_seconds = time.perf_counter() - start
    return _record(out, log, error, send_seconds, end_seconds)


async def _read(client: httpx.AsyncClient, http: httpx.Request, log: StreamLog, start: float) -> str | None:
    """Fills `log`; returns why there is no stream, if so."""
    response = await client.send(http, stream=True)
    try:
        if response.status_code != httpx.codes.OK:
            return http_error_text(response.status_code, await response.aread())
        async for raw in response.aiter_raw():
            log.feed(raw, time.perf_counter() - start)
        return None
    finally:
        await response.aclose()


def http_error_text(status_code: int, content: bytes) -> str:
    """`HTTP 429: message`, from an OpenAI error body or from plain text."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = content.decode(errors="replace")
    if isinstance(answer, dict):
        answer = answer.get("error") or answer
    return f"HTTP {status_code}: {error_text(answer)}"


def _record(out: Outgoing, log: StreamLog, error: str | None, send_seconds: float, end_seconds: float) -> RequestRecord:
    status, reason = judge(log, error)
    return RequestRecord(
        request_idx=out.request_idx,
        status=status,
        send_seconds=send_seconds,
        end_seconds=end_seconds,
        chunk_seconds=tuple(log.chunk_seconds),
        finish_seconds=log.finish_seconds,
        input_tokens=log.input_tokens or 0,
        output_tokens=log.output_tokens or 0,
        due_seconds=out.due_seconds,
        error=reason,
    )


def judge(log: StreamLog, error: str | None) -> tuple[Status, str | None]:
    """How a request ended, and why: an answer that began and did not end well is cut, no answer is failed."""
    error = error or log.error
    if error is None and not log.is_done:
        error = "the stream ended without [DONE]"
    if error is not None:
        is_cut = bool(log.chunk_seconds) or log.error is not None
        return (Status.CUT if is_cut else Status.FAILED), error
    if not log.chunk_seconds:
        return Status.FAILED, "the stream carried no text"
    if log.input_tokens is None or log.output_tokens is None:
        return Status.FAILED, "the stream carried no usage numbers; the server must honour include_usage"
    return Status.OK, None
