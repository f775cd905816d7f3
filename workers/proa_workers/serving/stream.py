"""What one request's RPC reads: the outcomes of its sequences, in order, with its latency record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from proa_workers.core.outcome import Finish, Outcome
from proa_workers.core.plan import Sampled
from proa_workers.core.sequence import Sequence
from proa_workers.errors import WorkerError
from proa_workers.kv.handoff import HandOff
from proa_workers.metrics import Metrics


@dataclass(slots=True, kw_only=True)
class Batch:
    """Tokens of one output that arrived since the last read, and its end if it ended."""

    seq: Sequence
    sampled: list[Sampled]
    finish: Finish | None = None
    kv_params: str | None = None


class Stream:
    """Queue between the engine's reports and one RPC; lives on the event loop."""

    def __init__(self, key: str, seqs: Seq[Sequence], hand_off: HandOff | None) -> None:
        self.key = key
        self.seqs = seqs
        self.hand_off = hand_off  # still to be fetched or released
        self.fetch_task: asyncio.Task[bool] | None = None
        self.error: WorkerError | None = None
        self.num_open = len(seqs)
        self._clocks = {seq.seq_id: _Clock(seq) for seq in seqs}
        self._pending: list[Batch] = []
        self._has_news = asyncio.Event()

    @property
    def has_news(self) -> bool:
        return bool(self._pending)

    def put(self, outcome: Outcome, now: float, metrics: Metrics, kv_params: str | None) -> None:
        """Take one outcome of one of the sequences; several tokens are merged until the RPC reads them."""
        self._clocks[outcome.seq.seq_id].record(outcome, now, metrics)
        self.num_open -= outcome.finish is not None
        last = self._pending[-1] if self._pending else None
        if last is None or last.seq is not outcome.seq or last.finish is not None:
            last = Batch(seq=outcome.seq, sampled=[])
            self._pending.append(last)
        if outcome.sampled is not None:
            last.sampled.append(outcome.sampled)
        last.finish = outcome.finish
        last.kv_params = kv_params
        self._has_news.set()

    async def read(self) -> list[Batch]:
        """Everything that arrived since the last read; waits for the first."""
        await self._has_news.wait()
        self._has_news.clear()
        batches, self._pending = self._pending, []
        return batches


class _Clock:
    """Latency of one output, as vLLM's metrics define it."""

    def __init__(self, seq: Sequence) -> None:
        self._seq = seq
        self._first = 0.0
        self._last = 0.0

    def record(self, outcome: Outcome, now: float, metrics: Metrics) -> None:
        if outcome.sampled is not None:
            metrics.generation_tokens.inc()
            if self._first:
                metrics.itl.observe(now - self._last)
            else:
                self._first = now
                self._started(now, metrics)
            self._last = now
        if outcome.finish is not None:
            self._ended(outcome.finish, now, metrics)

    def _started(self, now: float, metrics: Metrics) -> None:
        seq = self._seq
        metrics.ttft.observe(now - seq.arrived_at)
        metrics.queue.observe(seq.scheduled_at - seq.arrived_at)
        metrics.prefill.observe(now - seq.scheduled_at)
        self._count_prompt(metrics)

    def _count_prompt(self, metrics: Metrics) -> None:
        metrics.prompt_tokens.inc(self._seq.num_prompt)
        metrics.prompt_length.observe(self._seq.num_prompt)
        metrics.prefix_queries.inc(self._seq.num_prompt)
        metrics.prefix_hits.inc(self._seq.num_cached)
        metrics.fetched_tokens.inc(self._seq.num_fetched)

    def _ended(self, finish: Finish, now: float, metrics: Metrics) -> None:
        metrics.finished(finish.reason)
        metrics.e2e.observe(now - self._seq.arrived_at)
        num_output = len(self._seq.row.output_ids)
        metrics.output_length.observe(num_output)
        if self._seq.is_hand_off and finish.reason == "length":
            self._count_prompt(metrics)
        if num_output > 1:
            metrics.decode.observe(self._last - self._first)
            metrics.tpot.observe((self._last - self._first) / (num_output - 1))
