"""One engine with its streams, leases and peers, as the servicers see it. Lives on the event loop."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from proa_proto.v1 import worker_admin_pb2 as admin_pb
from tokenizers import Tokenizer

from proa_workers.core.load import Load
from proa_workers.core.outcome import Outcome
from proa_workers.core.scheduler import Fetch
from proa_workers.engine.base import Engine
from proa_workers.engine.loop import EngineLoop, Report
from proa_workers.errors import Draining, EngineFailed, Saturated, TransferFailed, WorkerError
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.holder import KvHolder
from proa_workers.kv.reader import KvReader
from proa_workers.metrics import LoadSource, Metrics
from proa_workers.sampling.grammar import GrammarFactory
from proa_workers.serving.kv_events import KvEventLog
from proa_workers.serving.stream import Stream
from proa_workers.serving.tally import Tally
from proa_workers.settings import Role, Settings

T = TypeVar("T")
logger = logging.getLogger(__name__)
SUBMIT_TIMEOUT_SECONDS = 30.0
SWEEP_SECONDS = 0.25
NOTHING_TO_FETCH: dict[str, object] = {"do_remote_prefill": False}  # a prompt of one token has no rows to hand off


async def _ignore(_: bool) -> None:
    return


class Worker(LoadSource):
    """Connects RPCs to the engine loop; `phase` tells the operator how far the start or the drain is."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.tally = Tally()
        self.role: Role = settings.role
        self.phase = admin_pb.Phase.LOAD
        self.fraction = 0.0
        self.clock = time.monotonic
        self.started_at = time.time()
        self.epoch = time.time_ns() // 1_000_000
        self.kv_events = KvEventLog(settings.block_size)
        self.streams: dict[str, Stream] = {}
        self.failed = asyncio.Event()
        self.on_serving: Callable[[bool], Awaitable[None]] = _ignore  # tells the health service
        self._num_requests = 0
        self._fetches: set[asyncio.Task[Any]] = set()

    def attach(
        self,
        engine: Engine,
        make_loop: Callable[[Callable[[Report], None]], EngineLoop],
        tokenizer: Tokenizer,
    ) -> None:
        """Take over a loaded engine and start its loop, its lease holder and its reader."""
        self.engine = engine
        self.tokenizer = tokenizer
        info = engine.info
        self.grammars = GrammarFactory(Path(info.model_path), info.vocab_size, info.eos_token_ids)
        event_loop = asyncio.get_running_loop()

        def deliver(report: Report) -> None:
            event_loop.call_soon_threadsafe(self._on_report, report)

        self.loop = make_loop(deliver)
        s = self.settings
        self.holder = KvHolder(
            engine.kv,
            engine_id=s.engine_id,
            epoch=self.epoch,
            control_address=f"{s.advertise_host}:{s.kv_port}",
            lease_seconds=s.lease_seconds,
            unclaimed_seconds=s.unclaimed_lease_seconds,
            unpin=self.loop.unpin,
        )
        self.holder.serve_tcp(s.host, s.kv_data_port)
        self.reader = KvReader(engine.kv, engine_id=s.engine_id, epoch=self.epoch, transport=s.transport)
        self.loop.start()
        self.phase = admin_pb.Phase.SERVING
        self.fraction = 1.0

    @property
    def load(self) -> Load | None:
        return self.loop.load if self.is_loaded else None

    @property
    def is_loaded(self) -> bool:
        return self.phase in (admin_pb.Phase.SERVING, admin_pb.Phase.DRAINING)

    def lease_counts(self) -> tuple[dict[str, int], dict[str, int]]:
        states = {state.value: count for state, count in self.holder.count_states().items()}
        return states, {outcome.value: count for outcome, count in self.holder.count_outcomes().items()}

    def check_open(self) -> None:
        """Draining unless this worker takes new requests now."""
        if self.failed.is_set():
            raise EngineFailed()
        if self.phase is not admin_pb.Phase.SERVING:
            state = "drains" if self.is_loaded else "still loads"
            raise Draining(f"worker {self.settings.engine_id} {state}: retry on another worker")

    def new_key(self, request_id: str) -> str:
        """Unique key of a request inside this worker: gateways may send one id twice (a retry)."""
        self._num_requests += 1
        return f"{request_id}#{self._num_requests}"

    async def open(self, stream: Stream) -> None:
        """Queue a request's sequences; raises InvalidRequest, Saturated or Draining."""
        self.check_open()
        self.streams[stream.key] = stream
        try:
            future = asyncio.wrap_future(self.loop.submit(stream.seqs))
            await asyncio.wait_for(future, SUBMIT_TIMEOUT_SECONDS)
        except TimeoutError:
            self.loop.abort(stream.key)  # it may be queued just now
            self._refuse(stream)
            raise Saturated("the engine computes one step for too long: retry on another worker") from None
        except WorkerError:
            self._refuse(stream)
            raise
        except asyncio.CancelledError:
            await self.close(stream)
            raise

    async def close(self, stream: Stream) -> None:
        """End a request: whatever of it still runs, transfers or is reserved at a peer stops. Idempotent."""
        if self.streams.pop(stream.key, None) is None:
            return
        if stream.num_open:
            self.loop.abort(stream.key)
        for _ in range(stream.num_open):
            self.metrics.finished("abort")  # its client has left, so no report will find the stream
        if stream.fetch_task is not None:
            stream.fetch_task.cancel()
        self._release(stream)

    def _refuse(self, stream: Stream) -> None:
        """Forget a request of which nothing was queued."""
        del self.streams[stream.key]
        self._release(stream)

    def abort(self, request_id: str) -> None:
        """End the requests that a gateway calls `request_id`; unknown ids are fine."""
        for key in [key for key in self.streams if key.rpartition("#")[0] == request_id]:
            self.loop.abort(key)

    async def drain(self, timeout_seconds: float) -> bool:
        """Take no new requests and wait until nothing runs and no lease is left; False at the deadline."""
        self.phase = admin_pb.Phase.DRAINING
        await self.on_serving(False)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not self.streams and not self._fetches and not self.holder.num_leases:
                return True
            await asyncio.sleep(0.05)
        return False

    async def reopen(self, role: Role) -> None:
        """Serve again, in `role`; Saturated while requests run or leases are held."""
        if self.streams or (self.is_loaded and self.holder.num_leases):
            raise Saturated("requests or leases are open: drain the worker first")
        self.role = role
        if self.phase is admin_pb.Phase.DRAINING:
            self.phase = admin_pb.Phase.SERVING
            await self.on_serving(True)

    async def sweep(self) -> None:
        """Expire leases until cancelled; the one ticker of the process."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.holder.sweep()

    async def stop(self) -> None:
        """Stop loop and transports, free memory."""
        for task in self._fetches:
            task.cancel()
        await asyncio.gather(*self._fetches, return_exceptions=True)
        await self.reader.close()
        await asyncio.to_thread(self.holder.close)
        await asyncio.to_thread(self.loop.stop)
        self.engine.close()

    def _on_report(self, report: Report) -> None:
        if report.num_step_tokens:
            self.metrics.step_tokens.observe(report.num_step_tokens)
        for outcome in report.outcomes:
            self._deliver(outcome, report.time)
        for fetch in report.fetches:
            self._start_fetch(fetch)
        self.kv_events.append(report.cache_events)
        if report.failure is not None:
            self.failed.set()

    def _deliver(self, outcome: Outcome, now: float) -> None:
        stream = self.streams.get(outcome.seq.request_id)
        if stream is None:
            if outcome.pinned:
                self.loop.unpin(outcome.pinned)  # the client left between the last step and this report
            return
        if outcome.sampled is not None:
            self._release(stream)  # everything was cached here: the peer's blocks were not needed
        stream.put(outcome, now, self._offer(outcome))

    def _offer(self, outcome: Outcome) -> str | None:
        """`kv_transfer_params_json` of a finished hand-off; None for everything else."""
        if not outcome.seq.is_hand_off or outcome.finish is None or outcome.finish.reason != "length":
            return None
        if not outcome.pinned:
            return json.dumps(NOTHING_TO_FETCH)
        return json.dumps(self.holder.offer(outcome.pinned, outcome.seq.num_target))

    def _start_fetch(self, fetch: Fetch) -> None:
        stream = self.streams.get(fetch.seq.request_id)
        if stream is None or stream.hand_off is None:
            self.loop.fetched(fetch.seq.seq_id, is_good=False, may_recompute=True)
            return
        hand_off, stream.hand_off = stream.hand_off, None
        stream.fetch_task = self._spawn(self._fetch(stream, hand_off, fetch))
        stream.fetch_task.add_done_callback(lambda task: self._end_fetch(fetch, task))

    async def _fetch(self, stream: Stream, hand_off: HandOff, fetch: Fetch) -> bool:
        try:
            report = await self.reader.fetch(hand_off, fetch.block_ids, fetch.first_block)
        except WorkerError as error:
            self._count_failure(stream, error)
            return False
        self.metrics.transfer_seconds.labels(report.transport).observe(report.seconds)
        self.metrics.transfer_bytes.labels(report.transport).inc(report.num_bytes)
        return True

    def _end_fetch(self, fetch: Fetch, task: asyncio.Task[bool]) -> None:
        """Give the blocks back to the loop. NOTE: a task cancelled before its first step never ran any `finally`."""
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            logger.error("kv fetch failed by a bug", exc_info=failure)
        is_good = not task.cancelled() and failure is None and task.result()
        may_recompute = self.settings.kv_failure_policy == "recompute"
        self.loop.fetched(fetch.seq.seq_id, is_good=is_good, may_recompute=may_recompute)

    def _count_failure(self, stream: Stream, error: WorkerError) -> None:
        self.metrics.transfer_failures.labels(type(error).__name__).inc()
        logger.warning("kv hand-off failed", extra={"request": stream.key, "error": str(error)})
        if self.settings.kv_failure_policy == "recompute":
            self.metrics.recomputed.inc()
        else:
            stream.error = TransferFailed(f"the prompt's KV blocks did not arrive ({error}): retry")

    def _release(self, stream: Stream) -> None:
        if stream.hand_off is not None:
            hand_off, stream.hand_off = stream.hand_off, None
            self._spawn(self.reader.release(hand_off))

    def _spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(coroutine)
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)
        return task
