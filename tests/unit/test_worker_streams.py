"""How a request opens and leaves a worker, and what the metrics say of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import suppress

import pytest
from proa_workers.core.outcome import Finish, Outcome
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow
from proa_workers.core.sequence import Sequence
from proa_workers.errors import Draining, EngineFailed, InvalidRequest, Saturated, TransferFailed
from proa_workers.metrics import Metrics
from proa_workers.serving import worker as worker_module
from proa_workers.serving.interceptor import _typed_stream
from proa_workers.serving.stream import Stream
from proa_workers.serving.tally import Tally
from proa_workers.serving.worker import Worker
from proa_workers.settings import parse_settings


class LoopDouble:
    """Answers `submit` with `answer`; None never answers."""

    def __init__(self, answer: Exception | bool | None) -> None:
        self._answer = answer
        self.aborted: list[str] = []

    def submit(self, seqs: list[Sequence]) -> Future[None]:
        future: Future[None] = Future()
        if isinstance(self._answer, Exception):
            future.set_exception(self._answer)
        elif self._answer:
            future.set_result(None)
        return future

    def abort(self, key: str) -> None:
        self.aborted.append(key)


def make(answer: Exception | bool | None, **fields: object) -> tuple[Worker, Stream]:
    worker = Worker(parse_settings(["--model", "m"], {}), Metrics("m"))
    worker.loop = LoopDouble(answer)
    worker.phase = worker_module.admin_pb.Phase.SERVING
    row = SampleRow(params=SamplingParams(max_tokens=1), seed=0, prompt_ids=[1, 2], output_ids=[], eos_token_ids=())
    seqs = [Sequence(seq_id=i, request_id="r#1", row=row, index=i, **fields) for i in range(2)]
    return worker, Stream("r#1", seqs, None, worker.metrics, worker.tally)


def count(worker: Worker, name: str, **labels: str) -> float:
    return worker.metrics.registry.get_sample_value(name, {"model_name": "m", "engine": "0", **labels}) or 0.0


def count_aborts(worker: Worker) -> float:
    return count(worker, "vllm:request_success_total", finished_reason="abort")


async def test_client_that_leaves_is_counted_as_abort_once_an_output() -> None:
    worker, stream = make(True)
    await worker.open(stream)
    stream.put(Outcome(seq=stream.seqs[0], finish=Finish(reason="stop")), 1.0, None)
    await worker.close(stream)
    await worker.close(stream)
    assert (worker.loop.aborted, count_aborts(worker), worker.streams) == (["r#1"], 1.0, {})


async def test_refused_request_is_no_abort() -> None:
    worker, stream = make(Saturated("full"))
    with pytest.raises(Saturated, match="full"):
        await worker.open(stream)
    assert (worker.loop.aborted, count_aborts(worker), worker.streams) == ([], 0.0, {})


async def test_engine_that_takes_no_request_in_time_is_saturated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "SUBMIT_TIMEOUT_SECONDS", 0.01)
    worker, stream = make(None)
    with pytest.raises(Saturated, match="retry on another worker"):
        await worker.open(stream)
    assert worker.streams == {}


@pytest.mark.parametrize(("reason", "num_counted"), [("length", 2.0), ("abort", 0.0), ("error", 0.0)])
async def test_only_a_finished_hand_off_counts_its_prompt(reason, num_counted: float) -> None:
    worker, stream = make(True, is_hand_off=True)
    stream.put(Outcome(seq=stream.seqs[0], finish=Finish(reason=reason)), 1.0, None)
    assert count(worker, "vllm:prompt_tokens_total") == num_counted


@pytest.mark.parametrize(("scheduled_at", "sums"), [(11.0, [1.0, 2.0]), (0.0, [3.0, 0.0])])
async def test_a_hand_off_tells_its_queue_and_prefill_time(scheduled_at: float, sums: list[float]) -> None:
    """Also one whose blocks were all cached, which no step was planned for."""
    worker, stream = make(True, is_hand_off=True, arrived_at=10.0, scheduled_at=scheduled_at)
    stream.put(Outcome(seq=stream.seqs[0], finish=Finish(reason="length")), 13.0, None)
    assert [count(worker, f"vllm:request_{stage}_time_seconds_sum") for stage in ("queue", "prefill")] == sums


ENDS = {
    "answered": (None, (1, 0)),
    "bug": (RuntimeError("bug"), (1, 1)),
    "engine failed": (EngineFailed(), (1, 1)),
    "hand-off lost": (TransferFailed("lost"), (1, 1)),
    "refused": (Saturated("full"), (0, 0)),
    "drains": (Draining("drains"), (0, 0)),
    "bad request": (InvalidRequest("bad"), (0, 0)),
    "client left": (asyncio.CancelledError(), (0, 0)),
    "client left between tokens": (GeneratorExit(), (0, 0)),
}


@pytest.mark.parametrize(("error", "counted"), ENDS.values(), ids=ENDS)
def test_only_the_worker_s_own_faults_count_as_failed(error: BaseException | None, counted: tuple[int, int]) -> None:
    tally = Tally()
    with suppress(BaseException), tally:
        if error is not None:
            raise error
    assert (tally.finished, tally.failed) == counted


async def test_first_token_and_hand_off_are_timed_once_each() -> None:
    for fields, outcome in (
        ({}, {"sampled": Sampled(token_id=1, logprob=0.0)}),
        ({"is_hand_off": True}, {"finish": Finish(reason="length")}),
    ):
        worker, stream = make(True, arrived_at=10.0, **fields)
        for now in (12.0, 17.0):
            if now == 12.0 or "sampled" in outcome:
                stream.put(Outcome(seq=stream.seqs[0], **outcome), now, None)
        assert (worker.tally.ttft_seconds, worker.tally.num_ttft) == (2.0, 1)


@pytest.mark.parametrize(("is_streaming", "wakes"), [(True, 4), (False, 2)])
async def test_only_a_stream_is_woken_for_every_token(is_streaming: bool, wakes: int) -> None:
    worker, made = make(True)
    stream = Stream("r#1", made.seqs, None, worker.metrics, worker.tally, is_streaming=is_streaming)
    found, woken = {seq.seq_id: [] for seq in stream.seqs}, 0
    for token, finish in ((1, None), (2, Finish(reason="length"))):
        for seq in stream.seqs:
            sampled = Sampled(token_id=token)
            stream.put(Outcome(seq=seq, sampled=sampled, finish=finish), 1.0, None)
            if stream._has_news.is_set():
                woken += 1
                for batch in await stream.read():
                    found[batch.seq.seq_id] += batch.sampled
    assert woken == wakes
    assert all([one.token_id for one in tokens] == [1, 2] for tokens in found.values())


async def test_closing_a_call_closes_the_request_below_it_at_once() -> None:
    """Not when the garbage collector comes by: until then the request would run and hold its blocks."""
    is_closed = False

    async def behavior(request: object, context: object) -> AsyncIterator[int]:
        nonlocal is_closed
        try:
            yield 1
            yield 2
        finally:
            is_closed = True

    call = _typed_stream(behavior)(None, None)
    assert await anext(call) == 1
    await call.aclose()
    assert is_closed
