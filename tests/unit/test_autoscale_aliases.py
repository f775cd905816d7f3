"""Pages of several vLLM versions give the same signals; a name that is gone is told with the version."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from proa_operator.api.service import DisaggregatedService
from proa_operator.autoscale.aliases import Engine, Version, engine_of, spellings, version_of
from proa_operator.autoscale.queries import ALL, Windows
from proa_operator.autoscale.readings import Pools, readings_of, signals_of
from proa_operator.autoscale.signals import PoolSignals, Signals
from proa_operator.local.autoscale_scrape import Scraper, Target

from tests.unit.autoscale_cases import config

OLD = ("gpu_cache_usage_perc", "gpu_prefix_cache_queries", "gpu_prefix_cache_hits", "time_per_output_token_seconds")
NEW = ("kv_cache_usage_perc", "prefix_cache_queries", "prefix_cache_hits", "inter_token_latency_seconds")
EXPORTED = {
    "0.9.1": (OLD,),
    "0.9.2": (OLD, (*NEW[:3], OLD[3])),
    "0.10.2": (OLD, NEW),
    "0.11.0": ((*NEW[:3], OLD[3]), NEW),
    "0.12.0": (NEW,),
    "0.32.0": (NEW,),
}
"""Names by version, without `vllm:`, of KV usage, lookups, hits and time between tokens."""
NOW = 1000.0
POOLS = Pools(prefill=PoolSignals(desired=1, ready=1), decode=PoolSignals(desired=1, ready=1), num_gateways=1)
GATEWAY = 'smg_tokio_workers 2\nsmg_http_requests_total{{method="POST",path="/v1/completions"}} {count}\n'


def page(version: str, count: int) -> str:
    """What a worker of this version says after `count` requests of 300 tokens in and 50 out, 20 ms a token."""
    lines = ["vllm:num_requests_running 3", "vllm:num_requests_waiting 1"]
    lines += _histogram("request_prompt_tokens", "500.0", count, 300.0 * count)
    lines += _histogram("request_generation_tokens", "100.0", count, 50.0 * count)
    lines += _histogram("request_prefill_time_seconds", "0.3", count, 0.1 * count)
    for usage, lookups, hits, itl in EXPORTED[version]:
        lines += [f"vllm:{usage} 0.25", f"vllm:{lookups}_total {300 * count}", f"vllm:{hits}_total {75 * count}"]
        lines += _histogram(itl, "0.05", 50 * count, 1.0 * count)
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _histogram(name: str, bound: str, count: int, total: float) -> Iterator[str]:
    for le in (bound, "+Inf"):
        yield f'vllm:{name}_bucket{{le="{le}"}} {count}'
    yield f"vllm:{name}_count {count}"
    yield f"vllm:{name}_sum {total}"


async def seen(version: str, monkeypatch: pytest.MonkeyPatch, *, without: str = "", engine: Engine) -> Signals:
    """Signals from pages of a minute; `without` drops the lines of a metric from them."""
    scraper = Scraper(lambda: (), Windows(quick=10.0, slow=20.0, stale=5.0), 1.0)
    monkeypatch.setattr("proa_operator.local.autoscale_scrape.time.time", lambda: NOW)
    place = {"namespace": "ns", "service": "s"}
    for second in range(31):
        text, at = page(version, 2 * second), NOW - 30.0 + second
        if without:
            text = "\n".join(line for line in text.splitlines() if not line.startswith(without)) + "\n"
        for role in ("prefill", "decode"):
            scraper.put(Target(url="", labels={**place, "pod": role, "role": role}), text, at)
        scraper.put(Target(url="", labels={**place, "pod": "gateway"}), GATEWAY.format(count=2 * second), at)
    readings = readings_of(await scraper.read())[("ns", "s")]
    pools = Pools(prefill=POOLS.prefill, decode=POOLS.decode, num_gateways=1, engine=engine)
    return signals_of(readings, pools, config(), NOW)


@pytest.mark.parametrize("version", EXPORTED)
async def test_every_version_gives_the_same_signals(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await seen(version, monkeypatch, engine=Engine(is_vllm=True))
    assert found.missing == ()
    assert found.decode.kv_usage == 0.25
    assert found.hit_rate == pytest.approx(0.25)
    assert found.itl_mean == pytest.approx(0.02)
    assert found.arrivals_per_second == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("version", "without", "known", "missing"),
    [
        ("0.9.1", "vllm:gpu_cache", (0, 9, 1), "vllm:gpu_cache_usage_perc (as vLLM 0.9.1 names it) of decode"),
        ("0.32.0", "vllm:kv_cache", (0, 32, 0), "vllm:kv_cache_usage_perc (as vLLM 0.32.0 names it) of decode"),
        (
            "0.32.0",
            "vllm:inter_token",
            (0, 40, 1),
            "vllm:inter_token_latency_seconds "
            "(vLLM 0.40.1 may have renamed it: names are known up to 0.32.0) of decode",
        ),
        (
            "0.32.0",
            "vllm:inter_token",
            None,
            "vllm:inter_token_latency_seconds (before vLLM 0.10.2: vllm:time_per_output_token_seconds) of decode",
        ),
        (
            "0.12.0",
            "vllm:num_requests_waiting",
            (0, 12, 0),
            "vllm:num_requests_waiting (as vLLM 0.12.0 names it) of prefill",
        ),
    ],
)
async def test_a_name_that_is_gone_is_told_with_the_version(
    version: str, without: str, known: Version | None, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await seen(version, monkeypatch, without=without, engine=Engine(is_vllm=True, version=known))
    assert found.missing[0] == missing


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.11.0", (0, 11, 0)),
        ("example.org:5000/team/vllm:0.9.1-rocm6.4@sha256:0123456789abcdef", (0, 9, 1)),
        ("vllm/vllm-openai:rocm-v0.12", (0, 12, 0)),
        ("example.org:5000/team/vllm@sha256:0123456789abcdef", None),
        ("example.org:5000/team/vllm", None),
        ("vllm/vllm-openai:latest", None),
        ("", None),
    ],
)
def test_the_version_is_that_of_the_tag(image: str, version: Version | None) -> None:
    assert version_of(image) == version


@pytest.mark.parametrize(
    ("engine", "own", "found"),
    [
        ({"type": "sim", "image": "x:v0.9.1"}, "", Engine()),
        ({"type": "vllm", "image": "x:v0.11.0"}, "", Engine(is_vllm=True, version=(0, 11, 0))),
        ({"type": "vllm", "image": "x:v0.11.0"}, "y:v0.9.1", Engine(is_vllm=True, version=(0, 9, 1))),
        ({"type": "vllm"}, "", Engine(is_vllm=True)),
    ],
)
def test_the_engine_is_that_of_the_manifest(engine: dict[str, str], own: str, found: Engine) -> None:
    container = {"name": "worker", "command": ["serve"], **({"image": own} if own else {})}
    pool = {"replicas": 1, "podTemplate": {"spec": {"containers": [container]}}}
    body = {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": "s"},
        "spec": {
            "model": {"uri": "hf://a/b", "name": "m"},
            "engine": engine,
            "pools": {"prefill": pool, "decode": pool},
        },
    }
    assert engine_of(DisaggregatedService.model_validate_json(json.dumps(body)).spec) == found


def test_each_renamed_metric_is_asked_for_by_both_names() -> None:
    asked = {name for query in ALL for name in query.metrics}
    for new in NEW:
        whole = f"vllm:{new}_total" if "prefix" in new else f"vllm:{new}"
        assert set(spellings(whole)) <= asked
        assert len(spellings(whole)) == 2
