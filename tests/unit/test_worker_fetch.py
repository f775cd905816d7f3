"""Every way in which a fetch of KV blocks can end tells the engine loop once, with the right verdict."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.core.scheduler import Fetch
from proa_workers.core.sequence import Sequence
from proa_workers.errors import TransferFailed
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.reader import FetchReport
from proa_workers.metrics import Metrics
from proa_workers.serving.stream import Stream
from proa_workers.serving.worker import Worker
from proa_workers.settings import parse_settings

HAND_OFF = HandOff(
    engine_id="p", epoch=1, transfer_id="t", generation=1, num_tokens=2, control="127.0.0.1:1", layout="x"
)
REPORT = FetchReport(num_bytes=1, seconds=0.1, transport="shm", num_runs=1)


@dataclass
class LoopDouble:
    verdicts: list[tuple[int, bool, bool]] = field(default_factory=list)

    def fetched(self, seq_id: int, *, is_good: bool, may_recompute: bool) -> None:
        self.verdicts.append((seq_id, is_good, may_recompute))

    def abort(self, key: str) -> None:
        pass


class ReaderDouble:
    def __init__(self, ending: Exception | FetchReport | None) -> None:
        self._ending = ending

    async def fetch(self, *_: object) -> FetchReport:
        if self._ending is None:
            await asyncio.Event().wait()
        if isinstance(self._ending, Exception):
            raise self._ending
        return self._ending


def make(ending: Exception | FetchReport | None, policy: str = "recompute") -> tuple[Worker, Stream, Fetch]:
    settings = parse_settings(["--model", "m", "--kv-failure-policy", policy], {})
    worker = Worker(settings, Metrics("m"))
    worker.loop, worker.reader = LoopDouble(), ReaderDouble(ending)
    params = SamplingParams(max_tokens=1)
    row = SampleRow(params=params, seed=0, prompt_ids=[1, 2, 3], output_ids=[], eos_token_ids=())
    seq = Sequence(seq_id=7, request_id="r#1", row=row, num_remote_tokens=2)
    stream = Stream("r#1", [seq], HAND_OFF, worker.metrics, worker.tally)
    worker.streams[stream.key] = stream
    return worker, stream, Fetch(seq=seq, block_ids=(0,), first_block=0)


async def settle(worker: Worker) -> None:
    while worker._fetches:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("ending", "policy", "verdict"),
    [
        (REPORT, "recompute", (7, True, True)),
        (TransferFailed("gone"), "recompute", (7, False, True)),
        (TransferFailed("gone"), "fail", (7, False, False)),
        (RuntimeError("a bug"), "recompute", (7, False, True)),
    ],
)
async def test_verdict(ending, policy, verdict) -> None:
    worker, stream, fetch = make(ending, policy)
    worker._start_fetch(fetch)
    await settle(worker)
    assert worker.loop.verdicts == [verdict]
    assert (stream.error is not None) == (policy == "fail")


async def test_close_before_the_first_step_of_the_fetch_gives_the_blocks_back() -> None:
    worker, stream, fetch = make(None)
    worker._start_fetch(fetch)
    await worker.close(stream)  # in the same tick: the task was never entered
    await settle(worker)
    assert worker.loop.verdicts == [(7, False, True)]


async def test_close_in_mid_fetch_gives_the_blocks_back_once() -> None:
    worker, stream, fetch = make(None)
    worker._start_fetch(fetch)
    await asyncio.sleep(0)
    await worker.close(stream)
    await worker.close(stream)
    await settle(worker)
    assert worker.loop.verdicts == [(7, False, True)]


async def test_fetch_of_a_stream_that_left_is_not_started() -> None:
    worker, stream, fetch = make(REPORT)
    del worker.streams[stream.key]
    worker._start_fetch(fetch)
    assert worker.loop.verdicts == [(7, False, True)]
