"""The client and both loops against a real socket that keeps its own times."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise
from types import SimpleNamespace

import pytest
from proa_operator.bench import client, drive
from proa_operator.bench.client import Api, Endpoint
from proa_operator.bench.connections import Connections
from proa_operator.bench.drive import Driver, Run
from proa_operator.bench.errors import EndpointError
from proa_operator.bench.probe import measure_density, served_model
from proa_operator.bench.prompt import TokenDensity
from proa_operator.bench.record import RequestRecord, Status
from proa_operator.bench.sse import StreamLog
from proa_operator.bench.workload import RequestPlan, UniformWorkload

DENSITY = TokenDensity(tokens_per_word=1.25, template_tokens=7)
WORKLOAD = UniformWorkload(name="tiny", input_tokens=20, output_tokens=6, spread=0.0)
ROUNDING = 1e-6


def some_plans(num: int) -> list[RequestPlan]:
    return list(islice(WORKLOAD.plans(0), num))


async def load(endpoint: Endpoint, plans: list[RequestPlan], concurrency: int | None, **rest: object) -> Run:
    async with Connections(endpoint) as connections:
        settings = {"seconds": None, "on_end": lambda _: None} | rest
        driver = Driver(connections=connections, endpoint=endpoint, density=DENSITY, seed=1, **settings)
        return await (driver.open_loop(plans) if concurrency is None else driver.closed_loop(plans, concurrency))


def at(double: object, **rest: object) -> Endpoint:
    return Endpoint(url=double.url, model="double", timeout_seconds=30.0, **rest)


async def check_times(double, make_answer, monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    """The double writes a token when the client has seen the one before, so each stamp lies between two times that the
    double wrote down, however busy the machine is: for some start of the run, the same for all tokens of all requests.
    """
    seen: list[bytes] = []
    feed = StreamLog.feed

    def counted(self: StreamLog, raw: bytes, now_seconds: float) -> None:
        feed(self, raw, now_seconds)
        seen.extend([raw] * raw.count(b"ahoy"))

    monkeypatch.setattr(StreamLog, "feed", counted)
    double.script = lambda number: make_answer(gap=0.005, may_write=lambda idx: len(seen) >= 6 * number + idx)
    run = await load(at(double, api=api), some_plans(3), concurrency=1)
    assert [r.status for r in run.records] == [Status.OK] * 3
    starts: list[tuple[float, float]] = []
    for record, served in zip(run.records, double.served, strict=True):
        assert record.output_tokens == len(record.chunk_seconds) == 6
        assert record.input_tokens == pytest.approx(20, abs=2)
        between = zip(record.chunk_seconds, pairwise(served.written), strict=False)
        starts += [(before - stamp, after - stamp) for stamp, (before, after) in between]
        assert served.written[0] - served.arrived <= record.chunk_seconds[0] - record.send_seconds + ROUNDING
    latest_start, earliest_start = min(after for _, after in starts), max(before for before, _ in starts)
    assert earliest_start <= latest_start + ROUNDING, "a stamp lies outside its two times"


@pytest.mark.parametrize("api", list(Api))
async def test_times_are_those_of_the_server(double, make_answer, monkeypatch: pytest.MonkeyPatch, api: Api):
    await check_times(double, make_answer, monkeypatch, api)


async def test_a_client_that_stamps_late_is_caught(double, make_answer, monkeypatch: pytest.MonkeyPatch):
    held: list[bytes] = []
    feed = StreamLog.feed

    def late(self: StreamLog, raw: bytes, now_seconds: float) -> None:
        held.append(raw)
        if b"[DONE]" in raw:
            feed(self, b"".join(held), now_seconds)
            held.clear()

    monkeypatch.setattr(StreamLog, "feed", late)
    with pytest.raises(AssertionError, match="lies outside"):
        await check_times(double, make_answer, monkeypatch, Api.CHAT)


async def test_a_closed_loop_keeps_its_concurrency(double, make_answer):
    double.script = lambda _: make_answer(gap=0.002, may_write=lambda _: double.max_running >= 4)
    ended: list[RequestRecord] = []
    run = await load(at(double), some_plans(17), concurrency=4, on_end=ended.append)
    assert double.max_running == 4
    assert sorted(r.request_idx for r in run.records) == list(range(17))
    assert ended == list(run.records)
    assert run.duration_seconds == max(r.end_seconds for r in run.records)


async def test_more_users_than_requests_lose_nothing(double):
    run = await load(at(double), some_plans(3), concurrency=8)
    assert len(run.records) == 3


async def test_an_open_loop_sends_whatever_is_in_flight(double, make_answer):
    double.script = lambda _: make_answer(may_write=lambda _: double.max_running == 10)
    plans = [replace(plan, due_seconds=0.01 * idx) for idx, plan in enumerate(some_plans(10))]
    run = await load(at(double), plans, concurrency=None)
    assert [r.status for r in run.records] == [Status.OK] * 10
    assert all(r.send_seconds >= r.due_seconds for r in run.records if r.due_seconds is not None)


async def test_an_open_loop_sends_on_time(double, monkeypatch: pytest.MonkeyPatch):
    """By a clock that only its own waits move, each of which ends 2 ms late: no lateness is carried on."""
    clock = [100.0]

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)  # what was sent before starts now
        clock[0] += seconds + 0.002

    for module in (client, drive):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(drive, "asyncio", SimpleNamespace(sleep=sleep, TaskGroup=asyncio.TaskGroup))
    plans = [replace(plan, due_seconds=float(idx)) for idx, plan in enumerate(some_plans(10))]
    run = await load(at(double), plans, concurrency=None)
    sent = sorted((r.due_seconds, r.send_seconds) for r in run.records)
    assert sent == [(float(idx), pytest.approx(idx + 0.002)) for idx in range(10)]


async def test_seconds_stop_the_sending_but_not_the_answers(double, make_answer):
    double.script = lambda _: make_answer(gap=0.01)
    closed = await load(at(double), some_plans(1000), concurrency=2, seconds=0.2)
    assert 2 <= len(closed.records) < 100
    assert {r.status for r in closed.records} == {Status.OK}
    plans = [replace(plan, due_seconds=0.1 * idx) for idx, plan in enumerate(some_plans(50))]
    assert len((await load(at(double), plans, concurrency=None, seconds=0.25)).records) == 3


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({"http_error": (429, "no room")}, Status.FAILED, "HTTP 429: no room"),
        ({"error_event_after": 2}, Status.CUT, "stream_error"),
        ({"error_event_after": 0}, Status.CUT, "stream_error"),
        ({"hang_up_after": 3}, Status.CUT, "RemoteProtocolError"),
        ({"has_done": False}, Status.CUT, "without [DONE]"),
        ({"has_usage": False}, Status.FAILED, "no usage numbers"),
        ({"num_tokens": 0}, Status.FAILED, "no text"),
    ],
)
async def test_what_goes_wrong_is_recorded_with_its_reason(
    double, make_answer: Callable[..., object], fields: dict[str, object], status: Status, error: str
):
    double.script = lambda idx: make_answer(**fields) if idx == 0 else make_answer()
    run = await load(at(double), some_plans(2), concurrency=1)
    assert [r.status for r in run.records] == [status, Status.OK]
    assert error in str(run.records[0].error)


@pytest.mark.parametrize(("num_tokens", "status"), [(0, Status.FAILED), (2, Status.CUT)])
async def test_the_timeout_ends_a_request(
    double, make_answer, monkeypatch: pytest.MonkeyPatch, num_tokens: int, status: Status
):
    """Its time is up when `num_tokens` were seen, and the server writes no more."""
    limit = asyncio.timeout(None)
    num_seen, feed = [0], StreamLog.feed

    def counted(self: StreamLog, raw: bytes, now_seconds: float) -> None:
        feed(self, raw, now_seconds)
        num_seen[0] += raw.count(b"ahoy")
        if num_seen[0] == num_tokens:
            limit.reschedule(0.0)

    monkeypatch.setattr(StreamLog, "feed", counted)
    asked: list[float] = []
    monkeypatch.setattr(client, "asyncio", SimpleNamespace(timeout=lambda seconds: [asked.append(seconds), limit][1]))
    double.script = lambda _: make_answer(may_write=lambda idx: idx < num_tokens)
    run = await load(at(double), some_plans(1), concurrency=1)
    assert (run.records[0].status, asked) == (status, [30.0])
    assert run.records[0].error == "no end within 30 s (--timeout)"


async def test_a_refused_connection_is_a_failure():
    run = await load(Endpoint(url="http://127.0.0.1:9", model="m"), some_plans(1), concurrency=1)
    assert run.records[0].status is Status.FAILED
    assert "ConnectError" in str(run.records[0].error)


async def test_probes_find_model_and_density(double):
    assert await served_model(double.url, None) == "double"
    async with Connections(at(double)) as connections:
        density = await measure_density(connections, at(double), num_tokens=400, seed=1)
    assert density.tokens_per_word == pytest.approx(1.25, rel=0.01)
    assert density.template_tokens == pytest.approx(7, abs=1)


async def test_an_endpoint_that_is_not_there_is_one_line():
    with pytest.raises(EndpointError, match=r"cannot reach .* check --url"):
        await served_model("http://127.0.0.1:9", None)


async def test_a_server_that_does_not_answer_is_left_to_the_requests():
    async def take_and_wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(60):
            while await reader.read(1024):
                pass  # until the client goes
        writer.close()

    async with await asyncio.start_server(take_and_wait, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        async with Connections(Endpoint(url=f"http://127.0.0.1:{port}", model="x")) as connections:
            await asyncio.wait_for(connections.warm(2, 0.1), 60)
