"""The way of a request: prefill queue, step, hand-off, decode batch.

Prefill is one first-come queue for k groups that batch whole prompts into steps (M/G/k with batches); the fabric and
each decode group are processor sharing. Time to first token is queue + step + hand-off + one decode step.
"""

from __future__ import annotations

from collections import deque
from math import isnan, nan

from proa_operator.simulate.clock import Clock, Kind
from proa_operator.simulate.cost import Cost
from proa_operator.simulate.decode import DecodeGroup
from proa_operator.simulate.fabric import Fabric
from proa_operator.simulate.observe import Meter, Totals
from proa_operator.simulate.pool import Pool
from proa_operator.simulate.prefill import PrefillGroup
from proa_operator.simulate.traffic import Outcome, Traffic


class Pipeline:
    """Columns of the traffic as lists, for lists are faster one item at a time than arrays."""

    def __init__(
        self,
        traffic: Traffic,
        cost: Cost,
        *,
        clock: Clock,
        prefill: Pool[PrefillGroup],
        decode: Pool[DecodeGroup],
        fabric: Fabric,
    ) -> None:
        self.cost, self.clock, self.prefill, self.decode, self.fabric = cost, clock, prefill, decode, fabric
        self.arrivals: list[float] = traffic.arrival_seconds.tolist()
        self.prompt: list[int] = traffic.prompt_tokens.tolist()
        self.output: list[int] = traffic.output_tokens.tolist()
        cached: list[int] = traffic.cached_tokens.tolist()
        pairs = list(zip(self.prompt, cached, strict=True))
        self.new = [prompt - hit for prompt, hit in pairs]
        self.own = [cost.own_seconds(prompt, hit) for prompt, hit in pairs]
        self.waiting: deque[int] = deque()
        self.backlog_tokens = 0
        self.held: deque[int] = deque()
        """Handed off, but no decode group has room."""
        self.sent_at = [0.0] * len(self.arrivals)
        self.first_at = [nan] * len(self.arrivals)
        self.meter = Meter(traffic)
        self.totals = Totals()
        self.outcome = Outcome(
            first_token_seconds=[nan] * len(self.arrivals), token_gap_seconds=[nan] * len(self.arrivals)
        )

    def enqueue(self, now: float, request_idx: int) -> None:
        self.waiting.append(request_idx)
        self.backlog_tokens += self.new[request_idx]
        self.feed(now)

    def feed(self, now: float) -> None:
        """Idle groups take steps while something waits."""
        if not self.waiting:
            return
        for group in self.prefill.ready:
            if not group.batch:
                self._step(now, group)
                if not self.waiting:
                    return

    def _step(self, now: float, group: PrefillGroup) -> None:
        seconds = group.take(self.waiting, self.new, self.own, self.cost)
        for request_idx in group.batch:
            self.backlog_tokens -= self.new[request_idx]
        self.totals.prefill_busy += seconds
        self.totals.prefill_seconds += seconds * len(group.batch)
        self.clock.at(now + seconds, Kind.STEP, group)

    def step_ends(self, now: float, group: PrefillGroup) -> None:
        """The prompts of the group's step are computed: their blocks go on the wire."""
        if group.is_lost:
            return
        batch, group.batch = group.batch, []
        self.totals.prefilled += len(batch)
        fabric, bytes_per_token = self.fabric, self.cost.kv_bytes_per_token
        head = self.cost.latency_seconds * self.cost.link_bytes_per_second
        fabric.advance(now)
        for request_idx in batch:
            self.sent_at[request_idx] = now
            fabric.join(head + self.prompt[request_idx] * bytes_per_token, request_idx)
        fabric.retime()
        self.clock.at(fabric.next_end(), Kind.TRANSFER, None, fabric.generation)
        if self.waiting:
            self.feed(now)
        self.prefill.sweep(now)

    def transfer_ends(self, now: float, generation: int) -> None:
        """The next transfer is through, unless the fabric was retimed since; its request decodes or is held."""
        fabric = self.fabric
        if generation != fabric.generation:
            return
        fabric.advance(now)
        request_idx = fabric.leave()
        self.totals.transfers += 1
        self.totals.transfer_bytes += self.prompt[request_idx] * self.cost.kv_bytes_per_token
        self.totals.transfer_seconds += now - self.sent_at[request_idx]
        self.retime_fabric()
        if self.held or not self._place(now, request_idx):
            self.held.append(request_idx)

    def retime_fabric(self) -> None:
        fabric = self.fabric
        fabric.retime()
        if fabric.ends:
            self.clock.at(fabric.next_end(), Kind.TRANSFER, None, fabric.generation)

    def _place(self, now: float, request_idx: int) -> bool:
        """Into the group with the fewest sequences among those with room."""
        prompt, output = self.prompt[request_idx], self.output[request_idx]
        best: DecodeGroup | None = None
        for group in self.decode.ready:
            if (best is None or len(group.ends) < len(best.ends)) and group.fits(prompt + output):
                best = group
        if best is None:
            return False
        self.totals.move(now, 1)
        first = now + best.start(now, request_idx, prompt, output)
        self.clock.at(best.next_end(), Kind.DECODE, best, best.generation)
        if isnan(self.first_at[request_idx]):  # NOTE: a retry after a fault has had its first token
            self._first_token(first, request_idx)
        return True

    def _first_token(self, first: float, request_idx: int) -> None:
        ttft = first - self.arrivals[request_idx]
        self.first_at[request_idx] = first
        self.outcome.first_token_seconds[request_idx] = ttft
        self.meter.first_token_at.append(first)
        self.meter.ttft.append(ttft)

    def place_held(self, now: float) -> None:
        while self.held and self._place(now, self.held[0]):
            self.held.popleft()

    def decode_ends(self, now: float, group: DecodeGroup, generation: int) -> None:
        """The group's next request has its last token, unless the group was retimed since."""
        if generation != group.generation:
            return
        group.move(now)
        request_idx = group.leave()
        output = self.output[request_idx]
        self.totals.move(now, -1)
        group.finish(self.prompt[request_idx], output)
        if group.ends:
            self.clock.at(group.next_end(), Kind.DECODE, group, group.generation)
        else:
            self.decode.sweep(now)
        gap = max(0.0, now - self.first_at[request_idx]) / (output - 1) if output > 1 else 0.0
        self.outcome.token_gap_seconds[request_idx] = gap
        self.meter.finished_at.append(now)
        self.meter.finished.append(request_idx)
        self.meter.itl.append(gap)
        if self.held:
            self.place_held(now)

    def lose_prefill(self, now: float) -> None:
        """Its prompts are read again, first."""
        group = self.prefill.lose(now)
        if group is not None:
            group.is_lost = True
            self._again(now, group.batch)

    def lose_decode(self, now: float) -> None:
        """Its answers start again from the prompt."""
        group = self.decode.lose(now)
        if group is not None:
            group.generation += 1
            self.totals.move(now, -len(group.ends))
            self._again(now, [request_idx for _, request_idx in group.ends])

    def _again(self, now: float, requests: list[int]) -> None:
        self.waiting.extendleft(reversed(requests))
        self.backlog_tokens += sum(self.new[request_idx] for request_idx in requests)
        self.feed(now)
