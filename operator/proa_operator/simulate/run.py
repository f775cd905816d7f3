"""One experiment: traffic, faults and an autoscaler's decisions on one virtual clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proa_operator.simulate.clock import Clock, Kind
from proa_operator.simulate.cost import Cost
from proa_operator.simulate.decode import DecodeGroup
from proa_operator.simulate.fabric import Fabric
from proa_operator.simulate.observe import Observation, PoolView, Totals
from proa_operator.simulate.pipeline import Pipeline
from proa_operator.simulate.policies.policy import Limits, Policy, Targets
from proa_operator.simulate.pool import Pool
from proa_operator.simulate.prefill import PrefillGroup
from proa_operator.simulate.traffic import Fault, Outcome, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One experiment. The run ends at `end_seconds`; what is unfinished then has NaN in the outcome."""

    traffic: Traffic
    cost: Cost
    limits: Limits
    start: Targets
    end_seconds: float
    fabric_bytes_per_second: float
    best_batch: int
    """Sequences at which a decode group counts as fully used, for utilisation."""
    faults: Sequence[Fault] = ()


def simulate(setting: Setting, policy: Policy) -> Outcome:
    """Runs `policy` on `setting` from warm pools of the size `setting.start`."""
    return _Run(setting, policy).play()


class _Run:
    def __init__(self, setting: Setting, policy: Policy) -> None:
        cost, start = setting.cost, setting.start
        self.setting, self.policy, self.clock = setting, policy, Clock()
        self.prefill = Pool(PrefillGroup, startup_seconds=cost.startup_seconds, count=start.prefill)
        self.decode = Pool(lambda: DecodeGroup(cost), startup_seconds=cost.startup_seconds, count=start.decode)
        self.pipeline = Pipeline(
            setting.traffic,
            cost,
            clock=self.clock,
            prefill=self.prefill,
            decode=self.decode,
            fabric=Fabric(
                link_bytes_per_second=cost.link_bytes_per_second,
                fabric_bytes_per_second=setting.fabric_bytes_per_second,
            ),
        )
        self.outcome = self.pipeline.outcome

    def play(self) -> Outcome:
        """Until `end_seconds` of the setting; arrivals and events in the order of their times."""
        self.outcome.targets.append((0.0, self.setting.start.prefill, self.setting.start.decode))
        self.clock.at(max(self.policy.period_seconds, self.policy.window_seconds), Kind.DECIDE)
        for fault in self.setting.faults:
            self.clock.at(fault.at_seconds, Kind.FAULT, fault)
        arrivals, events, end = self.pipeline.arrivals, self.clock.events, self.setting.end_seconds
        next_idx, num_arrivals = 0, len(arrivals)
        while events[0][0] < end or (next_idx < num_arrivals and arrivals[next_idx] < end):
            if next_idx < num_arrivals and arrivals[next_idx] <= events[0][0]:
                self.pipeline.enqueue(arrivals[next_idx], next_idx)
                next_idx += 1
            else:
                self._handle()
        return self._close(end)

    def _handle(self) -> None:
        now, _, kind, subject, generation = self.clock.pop()
        if kind is Kind.DECODE:
            self.pipeline.decode_ends(now, subject, generation)
        elif kind is Kind.TRANSFER:
            self.pipeline.transfer_ends(now, generation)
        elif kind is Kind.STEP:
            self.pipeline.step_ends(now, subject)
        elif kind is Kind.READY:
            self._groups_ready(now)
        elif kind is Kind.DECIDE:
            self._decide(now)
        else:
            self._break(now, subject)

    def _close(self, end: float) -> Outcome:
        self.prefill.account(end)
        self.decode.account(end)
        group_seconds = self.prefill.group_seconds + self.decode.group_seconds
        self.outcome.gpu_seconds = group_seconds * self.setting.cost.gpus_per_group
        return self.outcome

    def _groups_ready(self, now: float) -> None:
        if self.prefill.admit(now):
            self.pipeline.feed(now)
        if self.decode.admit(now):
            self.pipeline.place_held(now)

    def _decide(self, now: float) -> None:
        self.clock.at(now + self.policy.period_seconds, Kind.DECIDE)
        targets = self.setting.limits.clip(self.policy.decide(self._observe(now)))
        self._aim(now, targets)

    def _aim(self, now: float, targets: Targets) -> None:
        pairs: tuple[tuple[Pool[PrefillGroup] | Pool[DecodeGroup], int], ...]
        pairs = ((self.prefill, targets.prefill), (self.decode, targets.decode))
        changes = [(pool, target) for pool, target in pairs if pool.target != target]
        starts = [pool.aim(now, target) for pool, target in changes]
        if any(starts):
            self.clock.at(now + self.setting.cost.startup_seconds, Kind.READY)
        if changes:
            self.outcome.targets.append((now, targets.prefill, targets.decode))
        self.outcome.counts.append((now, len(self.prefill.ready), len(self.decode.ready)))

    def _break(self, now: float, fault: Fault) -> None:
        for _ in range(fault.lost_prefill):
            self.pipeline.lose_prefill(now)
        for _ in range(fault.lost_decode):
            self.pipeline.lose_decode(now)
        if fault.lost_prefill or fault.lost_decode:
            self.clock.at(now + self.setting.cost.startup_seconds, Kind.READY)
        if fault.fabric_factor is not None:
            self.pipeline.fabric.advance(now)
            self.pipeline.fabric.factor = fault.fabric_factor
            self.pipeline.retime_fabric()

    def _observe(self, now: float) -> Observation:
        pipeline, window = self.pipeline, self.policy.window_seconds
        self.prefill.account(now)
        self.decode.account(now)
        last = pipeline.totals.snapshot(now, self.prefill.ready_seconds, self.decode.ready_seconds)
        first = pipeline.meter.since(last, window)
        arrived, ended = pipeline.meter.arrived(now, window), pipeline.meter.ended(now, window)
        return Observation(
            now=now,
            window_seconds=max(1.0, last.at - first.at),
            prefill=self._prefill_view(first, last),
            decode=self._decode_view(first, last),
            arrived_prompt_tokens=arrived[0],
            arrived_cached_tokens=arrived[1],
            finished_prompt_tokens=ended[0],
            finished_output_tokens=ended[1],
            ttft_seconds=pipeline.meter.first_tokens(now, window),
            itl_seconds=ended[2],
            backlog_tokens=pipeline.backlog_tokens,
            prefilled=last.prefilled - first.prefilled,
            prefill_seconds=last.prefill_seconds - first.prefill_seconds,
            transfers=last.transfers - first.transfers,
            transfer_bytes=last.transfer_bytes - first.transfer_bytes,
            transfer_seconds=last.transfer_seconds - first.transfer_seconds,
        )

    def _prefill_view(self, first: Totals, last: Totals) -> PoolView:
        pool, prompt = self.prefill, self.pipeline.prompt
        busy, ready = last.prefill_busy - first.prefill_busy, last.prefill_ready - first.prefill_ready
        return PoolView(
            ready=len(pool.ready),
            starting=len(pool.starting),
            draining=len(pool.draining),
            target=pool.target,
            running=(last.prefill_seconds - first.prefill_seconds) / max(1.0, last.at - first.at),
            waiting=len(self.pipeline.waiting),
            kv_usage=self._kv_usage([sum(prompt[idx] for idx in group.batch) for group in pool.ready]),
            busy=min(1.0, busy / ready) if ready > 0 else 0.0,
        )

    def _decode_view(self, first: Totals, last: Totals) -> PoolView:
        pool = self.decode
        running, ready = last.decode_running - first.decode_running, last.decode_ready - first.decode_ready
        return PoolView(
            ready=len(pool.ready),
            starting=len(pool.starting),
            draining=len(pool.draining),
            target=pool.target,
            running=running / max(1.0, last.at - first.at),
            waiting=len(self.pipeline.held),
            kv_usage=self._kv_usage([group.context_tokens for group in pool.ready]),
            busy=running / (ready * self.setting.best_batch) if ready > 0 else 0.0,
        )

    def _kv_usage(self, tokens: Sequence[float]) -> float:
        return sum(tokens) / (len(tokens) * self.setting.cost.kv_cache_tokens) if tokens else 0.0
