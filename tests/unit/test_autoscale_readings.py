"""From metric pages to signals: both sources give the same, and what is missing is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from proa_operator.autoscale import queries
from proa_operator.autoscale.lengths import histogram_of, parts_of
from proa_operator.autoscale.queries import ALL, Query, Windows, promql
from proa_operator.autoscale.readings import Pools, Readings, is_short, missing_of, quantile, readings_of, signals_of
from proa_operator.autoscale.signals import PoolSignals
from proa_operator.autoscale.source import Unanswered
from proa_operator.cluster.autoscale_prometheus import samples_of
from proa_operator.local.autoscale_scrape import Scraper, Target, growth

from tests.unit.autoscale_cases import config

KEY = ("ns", "s")
POOLS = Pools(prefill=PoolSignals(desired=1, ready=1), decode=PoolSignals(desired=1, ready=1), num_gateways=1)
GATEWAY, PREFILL, DECODE = ({"role": role} if role else {} for role in ("", "prefill", "decode"))


def answers(**changes: Any) -> dict[Query, list[tuple[Mapping[str, str], float]]]:
    """Of a service with one group of each role at 2 requests a second; `changes` by the query's constant name."""
    place = {"namespace": "ns", "service": "s"}
    workers = [PREFILL, DECODE]
    plain: dict[str, list[tuple[Mapping[str, str], float]]] = {
        "ARRIVALS": [(GATEWAY, 2.0)],
        "GATEWAYS": [(GATEWAY, 1.0)],
        "WORKERS": [(one, 1.0) for one in workers],
        "RUNNING": [(PREFILL, 0.5), (DECODE, 6.0)],
        "WAITING": [(PREFILL, 3.0), (DECODE, 0.0)],
        "KV_USAGE": [(DECODE, 0.4)],
        "PROMPTS": [({**PREFILL, "le": le}, value) for le, value in (("100", 0.0), ("1000", 2.0), ("+Inf", 2.0))],
        "PROMPTS_SUM": [(PREFILL, 1000.0)],
        "OUTPUTS": [({**DECODE, "le": le}, value) for le, value in (("10", 0.0), ("100", 2.0), ("+Inf", 2.0))],
        "OUTPUTS_SUM": [(DECODE, 100.0)],
        "LOOKUPS": [(PREFILL, 1000.0)],
        "HITS": [(PREFILL, 250.0)],
        "ITL": [({**DECODE, "le": le}, value) for le, value in (("0.02", 50.0), ("0.04", 100.0), ("+Inf", 100.0))],
        "ITL_SUM": [(DECODE, 2.0)],
    } | changes
    return {
        getattr(queries, name): [({**place, **labels}, value) for labels, value in rows] for name, rows in plain.items()
    }


def read(**changes: Any) -> Readings:
    return readings_of(answers(**changes)).get(KEY, Readings())


def test_signals_of_a_service() -> None:
    seen = signals_of(read(), POOLS, config(), 100.0)
    assert seen.missing == ()
    assert seen.arrivals_per_second == 2.0
    assert seen.hit_rate == 0.25
    assert [(round(one.prompt_tokens), round(one.output_tokens)) for one in seen.histogram] == [(500, 50)]
    assert seen.backlog_tokens == pytest.approx(1500.0)
    assert seen.itl_mean == 0.02
    assert seen.itl_p == pytest.approx(0.038)
    assert seen.decode.running == 6.0


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"GATEWAYS": []}, "smg_tokio_workers of gateway"),
        ({"ARRIVALS": [(GATEWAY, NAN)]}, "smg_http_requests_total of gateway"),
        ({"WAITING": [(DECODE, 0.0)]}, "vllm:num_requests_waiting of prefill"),
        ({"WAITING": [(PREFILL, NAN), (DECODE, 0.0)]}, "vllm:num_requests_waiting of prefill"),
        ({"PROMPTS": []}, "vllm:request_prompt_tokens of prefill"),
        ({"PROMPTS": [({**PREFILL, "le": "+Inf"}, NAN)]}, "vllm:request_prompt_tokens of prefill"),
        ({"KV_USAGE": []}, "vllm:kv_cache_usage_perc of decode"),
        ({"ITL": []}, "vllm:inter_token_latency_seconds of decode"),
        ({"WORKERS": [(PREFILL, 1.0)]}, "vllm:num_requests_running of decode"),
    ],
)
def test_a_signal_that_is_absent_or_not_a_number_is_missing(changes: dict[str, Any], missing: str) -> None:
    assert signals_of(read(**changes), POOLS, config(), 0.0).missing[0] == missing


def test_no_requests_yet_is_not_missing() -> None:
    seen = signals_of(read(ARRIVALS=[]), POOLS, config(), 0.0)
    assert seen.missing == ()
    assert seen.arrivals_per_second == 0.0


def test_a_pool_without_groups_needs_no_metrics_and_its_gateway_can_wake_it() -> None:
    none = PoolSignals(desired=0, ready=0)
    asleep = Pools(prefill=none, decode=none, num_gateways=1)
    only_gateway = Readings(numbers={("gateway pods", ""): 1.0})
    assert missing_of(only_gateway, asleep, config()) == ()
    assert signals_of(only_gateway, asleep, config(), 0.0).arrivals_per_second == 0.0
    called = Readings(numbers={("gateway pods", ""): 1.0, ("first arrivals", ""): 1.0})
    assert signals_of(called, asleep, config(), 0.0).arrivals_per_second > 0.0


def test_groups_that_are_not_scraped_are_missing() -> None:
    late = Pools(prefill=POOLS.prefill, decode=POOLS.decode, num_gateways=1, is_late=True)
    assert signals_of(read(), late, config(), 0.0).missing == ("some groups or gateways are not scraped",)


@pytest.mark.parametrize(
    ("gateways", "prefill", "decode", "short"),
    [(1, 1, 1, False), (2, 1, 1, True), (1, 2, 1, True), (1, 1, 2, True), (0, 0, 0, False)],
)
def test_every_group_and_gateway_that_serves_has_to_be_scraped(
    gateways: int, prefill: int, decode: int, short: bool
) -> None:
    sizes = (PoolSignals(desired=2, ready=ready) for ready in (prefill, decode))
    pools = Pools(prefill=next(sizes), decode=next(sizes), num_gateways=gateways)
    assert is_short(read(), pools) is short


@pytest.mark.parametrize(
    ("desired", "missing"), [((1, 1), ("no gateway is ready",)), ((0, 1), ("no gateway is ready",)), ((0, 0), ())]
)
def test_without_a_gateway_silence_is_no_proof_of_no_load(desired: tuple[int, int], missing: tuple[str, ...]) -> None:
    prefill, decode = (PoolSignals(desired=number, ready=0) for number in desired)
    assert missing_of(Readings(), Pools(prefill=prefill, decode=decode, num_gateways=0), config()) == missing


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 0.02), (0.75, 0.03), (1.0, 0.04), (0.0, 0.0)], ids=["half", "between", "all", "none"]
)
def test_quantiles_are_linear_within_buckets(share: float, value: float) -> None:
    assert quantile({0.02: 50.0, 0.04: 100.0, math.inf: 100.0}, share) == pytest.approx(value)


def test_a_quantile_beyond_all_bounds_is_the_last_bound_and_of_nothing_none() -> None:
    assert quantile({0.02: 0.0, math.inf: 10.0}, 0.9) == 0.02
    assert quantile({}, 0.9) is None
    assert quantile({0.02: 0.0, math.inf: 0.0}, 0.9) is None


def test_lengths_keep_their_mean_and_their_tail() -> None:
    bounds = [10.0 * 2**power for power in range(14)]
    cumulative = {bound: min(0.95, 0.1 * idx) for idx, bound in enumerate(bounds)} | {bounds[-1]: 1.0, math.inf: 1.0}
    parts = parts_of(cumulative, 3000.0, 8)
    assert len(parts) <= 8
    assert sum(length * weight for length, weight in parts) == pytest.approx(3000.0)
    assert sum(weight for _, weight in parts) == pytest.approx(1.0)
    assert max(length for length, _ in parts) > 10_000
    assert histogram_of({}, 0.0, {}, 0.0) == ()


def test_both_spellings_of_a_renamed_metric_are_asked_for() -> None:
    text = promql(queries.KV_USAGE, Windows())
    assert "vllm:kv_cache_usage_perc" in text
    assert "or avg_over_time(vllm:gpu_cache_usage_perc" in text


def test_a_gateway_is_known_before_its_first_request() -> None:
    assert "timestamp(smg_tokio_workers{" in promql(queries.GATEWAYS, Windows())
    assert "(smg_tokio_workers offset 45s or" in promql(queries.FIRST_ARRIVALS, Windows())


def test_every_query_is_for_all_services() -> None:
    for query in ALL:
        assert "by (namespace, service, role" in promql(query, Windows())
    assert len({query.name for query in ALL}) == len(ALL)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"status": "success"},
        {"status": "error", "error": "bad"},
        {"status": "success", "data": {"result": [1]}},
    ],
)
def test_an_answer_that_is_not_prometheus_is_no_answer(body: Any) -> None:
    with pytest.raises(Unanswered):
        samples_of(body)


@pytest.mark.parametrize(
    ("points", "rate"),
    [
        ([(0.0, 5.0), (10.0, 25.0)], 2.0),
        ([(0.0, 100.0), (5.0, 110.0), (10.0, 10.0)], 2.0),
        ([(0.0, 5.0)], None),
        ([(0.0, 5.0), (10.0, 5.0)], 0.0),
    ],
    ids=["grows", "starts anew", "one sample", "still"],
)
def test_the_growth_of_a_counter(points: list[tuple[float, float]], rate: float | None) -> None:
    assert growth(points) == rate


PAGE = """
smg_http_requests_total{{method="POST",path="/v1/completions"}} {requests}
smg_http_requests_total{{method="GET",path="/readiness"}} 900
vllm:num_requests_running{{engine="0"}} 3
vllm:gpu_cache_usage_perc{{engine="0"}} 0.5
vllm:request_prompt_tokens_bucket{{engine="0",le="100.0"}} {requests}
vllm:request_prompt_tokens_bucket{{engine="0",le="+Inf"}} {requests}
"""


async def test_the_scrape_loop_answers_as_prometheus_would(monkeypatch: pytest.MonkeyPatch) -> None:
    scraper = Scraper(lambda: (), Windows(quick=10.0, slow=20.0, stale=5.0), 1.0)
    labels = {"namespace": "ns", "service": "s", "pod": "one", "role": "decode"}
    monkeypatch.setattr("proa_operator.local.autoscale_scrape.time.time", lambda: 110.0)
    for second in range(90, 111):
        scraper.put(Target(url="", labels=labels), PAGE.format(requests=4 * second), float(second))
    found = await scraper.read()
    assert found[queries.ARRIVALS] == [({"namespace": "ns", "service": "s", "role": "decode"}, 4.0)]
    assert found[queries.KV_USAGE][0][1] == 0.5
    assert found[queries.WORKERS][0][1] == 1.0
    assert sorted(value for _, value in found[queries.PROMPTS]) == [4.0, 4.0]
    assert found[queries.FIRST_ARRIVALS] == []
    monkeypatch.setattr("proa_operator.local.autoscale_scrape.time.time", lambda: 116.0)
    assert not any((await scraper.read()).values())


async def test_the_first_request_at_a_known_gateway_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    scraper = Scraper(lambda: (), Windows(quick=10.0, slow=20.0, stale=5.0), 1.0)
    gateway = Target(url="", labels={"namespace": "ns", "service": "s", "pod": "gateway"})
    probe = "smg_tokio_workers 2\n"  # all that a gateway tells before its first request
    call = 'smg_http_requests_total{method="POST",path="/v1/completions"} 1\n'
    monkeypatch.setattr("proa_operator.local.autoscale_scrape.time.time", lambda: 130.0)
    for second in range(100, 130):
        scraper.put(gateway, probe, float(second))
    idle = await scraper.read()
    assert idle[queries.FIRST_ARRIVALS] == []
    assert [value for _, value in idle[queries.GATEWAYS]] == [1.0]
    scraper.put(gateway, probe + call, 130.0)
    assert [value for _, value in (await scraper.read())[queries.FIRST_ARRIVALS]] == [1.0]
