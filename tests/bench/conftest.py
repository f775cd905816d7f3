"""An OpenAI endpoint double on a real socket, with scripted answers and its own record of what it sent when."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

TOKENS_PER_WORD, TEMPLATE_TOKENS = 1.25, 7


@dataclass(kw_only=True)
class Answer:
    """What the double does with one request. `None` for status 200 means: stream `num_tokens` tokens."""

    num_tokens: int | None = None  # default: what the request asked for
    first_delay: float = 0.0
    gap: float = 0.0
    http_error: tuple[int, str] | None = None
    error_event_after: int | None = None
    hang_up_after: int | None = None
    is_silent: bool = False
    may_write: Callable[[int], bool] = lambda _: True  # asked before each token until it says yes
    has_usage: bool = True
    has_done: bool = True


@dataclass(kw_only=True)
class Served:
    """One request as the double saw it; times are `time.perf_counter()`."""

    body: dict[str, Any]
    arrived: float
    authorization: str | None = None
    written: list[float] = field(default_factory=list)


@dataclass(kw_only=True)
class Double:
    """`script(request number)` gives the answer; probes of the bench (2 tokens) always get a plain one."""

    script: Callable[[int], Answer] = lambda _: Answer()
    url: str = ""
    served: list[Served] = field(default_factory=list)
    held: list[asyncio.Future[None]] = field(default_factory=list)
    num_running: int = 0
    max_running: int = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        arrived = time.perf_counter()
        if head.startswith("get"):
            return await _reply(writer, 200, json.dumps({"data": [{"id": "double"}]}))
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        if (body.get("max_completion_tokens") or body.get("max_tokens")) == 2:
            return await self._stream(writer, Served(body=body, arrived=arrived), Answer())
        self.served.append(Served(body=body, arrived=arrived, authorization=headers.get("authorization")))
        self.num_running += 1
        self.max_running = max(self.max_running, self.num_running)
        try:
            return await self._answer(writer, self.served[-1], self.script(len(self.served) - 1))
        finally:
            self.num_running -= 1

    async def _answer(self, writer: asyncio.StreamWriter, served: Served, answer: Answer) -> bool:
        if answer.http_error:
            status, message = answer.http_error
            return await _reply(writer, status, json.dumps({"error": {"message": message, "type": "some_error"}}))
        if answer.is_silent:
            self.held.append(asyncio.get_running_loop().create_future())  # the loop itself holds tasks only weakly
            await self.held[-1]
        return await self._stream(writer, served, answer)

    async def _stream(self, writer: asyncio.StreamWriter, served: Served, answer: Answer) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await _event(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(answer.first_delay)
        wanted = int(served.body.get("max_completion_tokens") or served.body["max_tokens"])
        num_tokens = wanted if answer.num_tokens is None else answer.num_tokens
        for idx in range(num_tokens):
            if idx == answer.error_event_after:
                await _event(writer, {"error": {"type": "stream_error"}})
                break
            if idx == answer.hang_up_after:
                return False
            if idx:
                await asyncio.sleep(answer.gap)
            while not answer.may_write(idx):
                await asyncio.sleep(0.001)
            served.written.append(time.perf_counter())
            await _event(writer, _token(served.body))
        if answer.has_usage:
            await _event(writer, {"choices": [], "usage": _usage(served.body, num_tokens)})
        if answer.has_done:
            await _write(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        return True


def _token(body: dict[str, Any]) -> dict[str, Any]:
    if "messages" in body:
        return {"choices": [{"index": 0, "delta": {"content": " ahoy"}}]}
    return {"choices": [{"index": 0, "text": " ahoy"}]}


def _usage(body: dict[str, Any], num_tokens: int) -> dict[str, int]:
    num_in = round(len(_prompt(body).split()) * TOKENS_PER_WORD) + TEMPLATE_TOKENS
    return {"prompt_tokens": num_in, "completion_tokens": num_tokens, "total_tokens": num_in + num_tokens}


def _prompt(body: dict[str, Any]) -> str:
    if "prompt" in body:
        return str(body["prompt"])
    content = body["messages"][0]["content"]  # guidellm and vLLM send a list of parts
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


async def _event(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    await _write(writer, b"data: " + json.dumps(event).encode() + b"\n\n")


async def _write(writer: asyncio.StreamWriter, payload: bytes) -> None:
    writer.write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")
    await writer.drain()


async def _reply(writer: asyncio.StreamWriter, status: int, text: str) -> bool:
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
    await writer.drain()
    return True


class _Thread:
    """Runs the double's event loop beside the test's."""

    def __init__(self, double: Double) -> None:
        self.double, self.ready = double, threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.double.connection, "127.0.0.1", 0)
        self.double.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.ready.set()
        await self.stop.wait()
        server.close()

    def __enter__(self) -> Double:
        self.thread.start()
        assert self.ready.wait(60), "the double did not start"
        return self.double

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(60)


@pytest.fixture
def double() -> Iterator[Double]:
    with _Thread(Double()) as running:
        yield running


@pytest.fixture
def second_double() -> Iterator[Double]:
    with _Thread(Double()) as running:
        yield running


@pytest.fixture
def make_answer() -> type[Answer]:
    return Answer
