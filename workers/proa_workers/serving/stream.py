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
from proa_workers.serving.tally import Tally


@dataclass(slots=True, kw_only=True)
class Batch:
    """Tokens of one output that arrived since the last read, and its end if it ended."""

    seq: Sequence
    sampled: list[Sampled]
    finish: Finish | None = None
    kv_params: str | None = None


class Stream:
    """Queue between the engine's reports and one RPC; lives on the event loop."""

    def __init__(
        self,
        key: str,
        seqs: Seq[Sequence],
        hand_off: HandOff | None,
        metrics: Metrics,
        tally: Tally,
        *,
        is_streaming: bool = True,
    ) -> None:
        """Without `is_streaming` only the end of an output is news: the RPC sleeps until then."""
        self.key = key
        self.seqs = seqs
        self.hand_off = hand_off  # still to be fetched or released
        self.fetch_task: asyncio.Task[bool] | None = None
        self.error: WorkerError | None = None
        self.num_open = len(seqs)
        self._clocks = {seq.seq_id: _Clock(seq, metrics, tally) for seq in seqs}
        self._is_streaming = is_streaming
        self._pending: dict[int, Batch] = {}
        self._has_news = asyncio.Event()

    @property
    def has_news(self) -> bool:
        return bool(self._pending)

    def put(self, outcome: Outcome, now: float, kv_params: str | None) -> None:
        """Take one outcome of one of the sequences; several tokens are merged until the RPC reads them."""
        self._clocks[outcome.seq.seq_id].record(outcome, now)
        self.num_open -= outcome.finish is not None
        batch = self._pending.setdefault(outcome.seq.seq_id, Batch(seq=outcome.seq, sampled=[]))
        if outcome.sampled is not None:
            batch.sampled.append(outcome.sampled)
        batch.finish = outcome.finish
        batch.kv_params = kv_params
        if self._is_streaming or outcome.finish is not None:
            self._has_news.set()

    async def read(self) -> list[Batch]:
        """Everything that arrived since the last read, by output; waits for news."""
        await self._has_news.wait()
        self._has_news.clear()
        batches, self._pending = self._pending, {}
        return list(batches.values())


class _Clock:
    """Latency of one output, as vLLM's metrics define it."""

    def __init__(self, seq: Sequence, metrics: Metrics, tally: Tally) -> None:
        self._seq = seq
        self._metrics = metrics
        self._tally = tally
        self._first = 0.0
        self._last = 0.0

    def record(self, outcome: Outcome, now: float) -> None:
        """Time to first token, gaps between tokens, and the end, from the outcome of one step; `now` in seconds."""
        if outcome.sampled is not None:
            self._metrics.generation_tokens.inc()
            if self._first:
                self._metrics.itl.observe(now - self._last)
            else:
                self._first = now
                self._started(now)
            self._last = now
        if outcome.finish is not None:
            self._ended(outcome.finish, now)

    def _started(self, now: float) -> None:
        self._metrics.ttft.observe(now - self._seq.arrived_at)
        self._prefilled(now)

    def _prefilled(self, now: float) -> None:
        """The prompt was read: for a hand-off at its end, else with the first token."""
        seq = self._seq
        scheduled_at = seq.scheduled_at or now  # a hand-off whose blocks were all cached needs no step
        self._tally.add_ttft(now - seq.arrived_at)
        self._metrics.queue.observe(scheduled_at - seq.arrived_at)
        self._metrics.prefill.observe(now - scheduled_at)
        self._metrics.prompt_tokens.inc(self._seq.num_prompt)
        self._metrics.prompt_length.observe(self._seq.num_prompt)
        self._metrics.prefix_queries.inc(self._seq.num_prompt)
        self._metrics.prefix_hits.inc(self._seq.num_cached)
        self._metrics.fetched_tokens.inc(self._seq.num_fetched)

    def _ended(self, finish: Finish, now: float) -> None:
        self._metrics.finished(finish.reason)
        self._metrics.e2e.observe(now - self._seq.arrived_at)
        num_output = len(self._seq.row.output_ids)
        self._metrics.output_length.observe(num_output)
        if self._seq.is_hand_off and finish.reason == "length":
            self._prefilled(now)
        if num_output > 1:
            self._metrics.decode.observe(self._last - self._first)
            self._metrics.tpot.observe((self._last - self._first) / (num_output - 1))
