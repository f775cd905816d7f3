"""Event streams as bytes: what counts as a token, what as an error, however the network cuts them."""

from __future__ import annotations

import json

import pytest
from proa_operator.bench.client import http_error_text, judge
from proa_operator.bench.record import Status
from proa_operator.bench.sse import StreamLog


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields}]})


ROLE = delta(role="assistant", content="")
TEXT = delta(content="ahoy")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
FINISH = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
ERROR = event({"error": {"type": "stream_error"}})
DONE = b"data: [DONE]\n\n"


def log_of(*parts: bytes) -> StreamLog:
    log = StreamLog()
    for second, part in enumerate(parts):
        log.feed(part, float(second))
    return log


@pytest.mark.parametrize(
    ("parts", "chunk_seconds"),
    [
        ([ROLE, TEXT, TEXT, FINISH, USAGE, DONE], [1, 2]),
        ([delta(reasoning_content="hm"), TEXT], [0, 1]),
        ([delta(reasoning="hm"), delta(tool_calls=[{"index": 0}])], [0, 1]),
        ([event({"choices": [{"index": 0, "text": "ahoy"}]}), event({"choices": [{"index": 0, "text": ""}]})], [0]),
        ([b": ping\n\n", b"event: message\n", TEXT], [2]),
        ([TEXT + TEXT], [0, 0]),
        ([TEXT.replace(b"\n", b"\r\n")], [0]),
        ([TEXT.replace(b"data: ", b"data:")], [0]),
    ],
)
def test_only_events_with_text_are_tokens(parts: list[bytes], chunk_seconds: list[float]):
    log = log_of(*parts)
    assert log.chunk_seconds == chunk_seconds
    assert chunk_seconds[-1] <= log.finish_seconds <= len(parts) - 1
    assert log.error is None


def test_the_generation_ends_with_its_finish_reason_not_with_its_last_text():
    log = log_of(ROLE, TEXT, delta(content=""), FINISH, USAGE, DONE)
    assert (log.chunk_seconds, log.finish_seconds) == ([1], 3)


def test_every_cut_of_the_bytes_gives_the_same_log():
    stream = ROLE + delta(content="größe\\n") + TEXT + FINISH + USAGE + DONE
    for at in range(len(stream) + 1):
        log = log_of(stream[:at], stream[at:])
        assert (len(log.chunk_seconds), log.input_tokens, log.output_tokens, log.is_done) == (2, 7, 2, True)


@pytest.mark.parametrize(
    ("parts", "transport_error", "ending"),
    [
        ([ROLE, TEXT, TEXT, USAGE, DONE], None, (Status.OK, None)),
        ([ROLE, TEXT, ERROR, DONE], None, (Status.CUT, "stream_error")),
        ([ROLE, ERROR, DONE], None, (Status.CUT, "stream_error")),
        ([TEXT, event({"error": {"message": "worker\ngone"}}), USAGE, DONE], None, (Status.CUT, "worker gone")),
        ([TEXT, event({"error": "plain"}), DONE], None, (Status.CUT, "plain")),
        ([TEXT, USAGE], None, (Status.CUT, "the stream ended without [DONE]")),
        ([], None, (Status.FAILED, "the stream ended without [DONE]")),
        ([TEXT], "ReadError: reset", (Status.CUT, "ReadError: reset")),
        ([], "ConnectError: refused", (Status.FAILED, "ConnectError: refused")),
        ([ROLE, USAGE, DONE], None, (Status.FAILED, "the stream carried no text")),
        ([TEXT, b"data: {oops\n\n", USAGE, DONE], None, (Status.CUT, "an event that is no JSON object: b'{oops'")),
        ([TEXT, b"data: 5\n\n", USAGE, DONE], None, (Status.CUT, "an event that is no JSON object: b'5'")),
    ],
)
def test_how_a_request_ended(parts: list[bytes], transport_error: str | None, ending: tuple[Status, str | None]):
    assert judge(log_of(*parts), transport_error) == ending


def test_missing_usage_is_a_failure_with_the_fix():
    status, reason = judge(log_of(TEXT, DONE), None)
    assert status is Status.FAILED
    assert "include_usage" in str(reason)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"error": {"message": "too long", "type": "x"}}', "HTTP 400: too long"),
        (b'{"error": {"type": "x"}}', "HTTP 400: x"),
        (b'{"message": "flat"}', "HTTP 400: flat"),
        (b"not json", "HTTP 400: not json"),
        (b"", "HTTP 400: "),
        (b"[1]", "HTTP 400: [1]"),
    ],
)
def test_http_errors_read_as_one_line(content: bytes, text: str):
    assert http_error_text(400, content) == text
