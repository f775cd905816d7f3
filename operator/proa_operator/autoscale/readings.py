"""From the answers of Prometheus to the signals of one service."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from proa_operator.autoscale import queries
from proa_operator.autoscale.aliases import Engine, explained
from proa_operator.autoscale.config import Config
from proa_operator.autoscale.lengths import histogram_of
from proa_operator.autoscale.queries import Form, Query
from proa_operator.autoscale.signals import PoolSignals, Signals

MOST_SHORT_ROUNDS = 1
"""Rounds in a row that a new group or gateway may be unscraped."""
Key = tuple[str, str]
"""Namespace and service."""
Sample = tuple[Mapping[str, str], float]
"""Labels and value, as an instant query returns them."""
PREFILL, DECODE, GATEWAY = "prefill", "decode", ""
_PROA = Engine()


@dataclass(slots=True)
class Readings:
    """All answers about one service: by name of the query and role; of histograms by upper bound too."""

    numbers: dict[tuple[str, str], float] = field(default_factory=dict)
    buckets: dict[tuple[str, str], dict[float, float]] = field(default_factory=dict)

    def get(self, query: Query, role: str) -> float | None:
        """None where there is no such series, or its value is not a number."""
        found = self.numbers.get((query.name, role))
        return found if found is not None and math.isfinite(found) else None

    def rate(self, query: Query, role: str) -> float:
        """Zero where nothing was counted yet. Counters never shrink, so a negative one is noise of a reset."""
        return max(0.0, self.get(query, role) or 0.0)

    def histogram(self, query: Query, role: str) -> dict[float, float]:
        """Rates by upper bound, cumulative; empty where there are none."""
        return self.buckets.get((query.name, role), {})


def readings_of(answers: Mapping[Query, Iterable[Sample]]) -> dict[Key, Readings]:
    """By service."""
    found: dict[Key, Readings] = {}
    for query, samples in answers.items():
        for labels, value in samples:
            key = (labels.get("namespace", ""), labels.get("service", ""))
            readings = found.setdefault(key, Readings())
            place = (query.name, labels.get("role", ""))
            if query.form is Form.BUCKETS:
                readings.buckets.setdefault(place, {})[float(labels["le"])] = value
            else:
                readings.numbers[place] = value
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """What the signals need besides metrics."""

    prefill: PoolSignals
    decode: PoolSignals
    num_gateways: int
    engine: Engine = _PROA
    """Whose metrics the groups export."""
    is_rolling: bool = False
    is_late: bool = False
    """Some group or gateway was not scraped for longer than a new one needs; see `is_short`."""


def signals_of(readings: Readings, pools: Pools, config: Config, now: float, *, trouble: str = "") -> Signals:
    """Signals of one service, with what is missing named by its metric; `trouble`: why there are no readings."""
    reader = DECODE if config.is_aggregated else PREFILL
    prompts = readings.histogram(queries.PROMPTS, reader)
    outputs = readings.histogram(queries.OUTPUTS, DECODE)
    histogram = histogram_of(
        prompts,
        readings.rate(queries.PROMPTS_SUM, reader),
        outputs,
        readings.rate(queries.OUTPUTS_SUM, DECODE),
    )
    lookups = readings.rate(queries.LOOKUPS, reader)
    waiting = readings.rate(queries.WAITING, reader)
    mean_prompt = sum(bucket.weight * bucket.prompt_tokens for bucket in histogram)
    percentile = config.slo.percentile
    return Signals(
        now=now,
        arrivals_per_second=_arrivals(readings, pools),
        histogram=histogram,
        hit_rate=min(1.0, readings.rate(queries.HITS, reader) / lookups) if lookups else 0.0,
        backlog_tokens=waiting * mean_prompt,
        prefill=_pool(pools.prefill, readings, PREFILL),
        decode=_pool(pools.decode, readings, DECODE),
        ttft_p=quantile(readings.histogram(queries.TTFT, GATEWAY), percentile),
        itl_p=quantile(readings.histogram(queries.ITL, DECODE), percentile),
        prefill_mean=_ratio(readings, queries.PREFILL_SUM, queries.PREFILL_COUNT, reader),
        itl_mean=_itl_mean(readings),
        transfers_per_second=readings.rate(queries.TRANSFER_COUNT, DECODE),
        transfer_bytes=readings.rate(queries.TRANSFER_BYTES, DECODE),
        transfer_seconds=readings.rate(queries.TRANSFER_SUM, DECODE),
        transfer_failures=readings.rate(queries.TRANSFER_FAILURES, DECODE),
        is_rolling=pools.is_rolling,
        missing=(trouble,) if trouble else missing_of(readings, pools, config),
    )


def missing_of(readings: Readings, pools: Pools, config: Config) -> tuple[str, ...]:
    """Names of the metrics without which nothing may be decided; of a pool without groups none are needed."""
    missing = []
    if not pools.num_gateways and (pools.prefill.desired or pools.decode.desired):
        missing.append("no gateway is ready")  # nobody counts requests: silence is no proof of no load
    elif pools.num_gateways and not readings.rate(queries.GATEWAYS, GATEWAY):
        missing.append(_named(queries.GATEWAYS, "gateway"))
    elif not math.isfinite(readings.numbers.get((queries.ARRIVALS.name, GATEWAY), 0.0)):
        missing.append(_named(queries.ARRIVALS, "gateway"))
    for role, pool in ((PREFILL, pools.prefill), (DECODE, pools.decode)):
        if pool.ready:
            lacking = (query for query in _needed(role, config) if not _is_there(readings, query, role))
            missing += [_named(query, role, pools.engine) for query in lacking]
    if pools.is_late and not missing:
        missing.append("some groups or gateways are not scraped")
    return tuple(missing)


def is_short(readings: Readings, pools: Pools) -> bool:
    """Whether fewer groups or gateways are scraped than serve: sums over them are then too small."""
    serving = (
        (queries.GATEWAYS, GATEWAY, pools.num_gateways),
        (queries.WORKERS, PREFILL, pools.prefill.ready),
        (queries.WORKERS, DECODE, pools.decode.ready),
    )
    return any(readings.rate(query, role) < number for query, role, number in serving)


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Linear within a bucket, as Prometheus does it; None without observations. The last bound for what is beyond."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total > 0.0:
        return None
    below, lower = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            inside = buckets[bound] - below
            return (
                lower
                if math.isinf(bound) or inside <= 0.0
                else lower + (bound - lower) * (share * total - below) / inside
            )
        below, lower = buckets[bound], bound
    return lower


def _arrivals(readings: Readings, pools: Pools) -> float:
    """A sleeping service wakes also by requests that came before its gateway was scraped a second time."""
    rate = readings.rate(queries.ARRIVALS, GATEWAY)
    if not pools.decode.desired and readings.rate(queries.FIRST_ARRIVALS, GATEWAY):
        return max(rate, 1e-3)
    return rate


def _needed(role: str, config: Config) -> tuple[Query, ...]:
    own: tuple[Query, ...] = (queries.WORKERS, queries.RUNNING, queries.WAITING)
    reader = DECODE if config.is_aggregated else PREFILL
    if role == reader:
        own = (*own, queries.PROMPTS, queries.LOOKUPS)
    return (*own, queries.KV_USAGE, queries.OUTPUTS, queries.ITL) if role == DECODE else own


def _is_there(readings: Readings, query: Query, role: str) -> bool:
    if query.form is Form.BUCKETS:
        found = readings.histogram(query, role)
        return bool(found) and all(map(math.isfinite, found.values()))
    return readings.get(query, role) is not None


def _named(query: Query, place: str, engine: Engine = _PROA) -> str:
    return f"{explained(query.metrics[0], engine)} of {place}"


def _pool(pool: PoolSignals, readings: Readings, role: str) -> PoolSignals:
    return replace(
        pool,
        running=readings.rate(queries.RUNNING, role),
        waiting=readings.rate(queries.WAITING, role),
        kv_usage=min(1.0, readings.rate(queries.KV_USAGE, role)),
    )


def _ratio(readings: Readings, above: Query, below: Query, role: str) -> float | None:
    count = readings.rate(below, role)
    return readings.rate(above, role) / count if count else None


def _itl_mean(readings: Readings) -> float | None:
    buckets = readings.histogram(queries.ITL, DECODE)
    count = max(buckets.values(), default=0.0)
    return readings.rate(queries.ITL_SUM, DECODE) / count if count > 0.0 else None
