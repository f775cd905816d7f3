"""Who answers the autoscaler: a Prometheus that hangs or refuses, and workers of `proa up` that are not scraped."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from proa_operator.api.service import DisaggregatedService
from proa_operator.autoscale.queries import ALL, ARRIVALS, PROMPTS_SUM, Query, Windows, promql
from proa_operator.autoscale.signals import Spans
from proa_operator.autoscale.source import Unanswered
from proa_operator.cluster import autoscale_parts
from proa_operator.cluster.autoscale_prometheus import Prometheus
from proa_operator.local import autoscale as local_autoscale
from proa_operator.local.autoscale import Autoscaler, config_of, windows_of
from proa_operator.local.autoscale_fleet import Count
from proa_operator.local.decision_log import DecisionLog
from proa_operator.local.prometheus import NAMESPACE
from proa_operator.settings import Settings

from tests.unit.autoscale_cases import config
from tests.unit.cluster_objects import service_body
from tests.unit.test_autoscale_readings import answers


class Hung(Prometheus):
    """Never answers; refuses one query when `refuses`."""

    def __init__(self, *, refuses: bool) -> None:
        super().__init__("http://127.0.0.1:9", Windows(), seconds=0.05)
        self.refuses, self.num_asked, self.num_given_up = refuses, 0, 0

    async def _ask(self, *_: Any) -> Any:
        self.num_asked += 1
        if self.refuses and self.num_asked == len(ALL):
            raise Unanswered("refused")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.num_given_up += 1
            raise


@pytest.mark.parametrize(("refuses", "message"), [(False, "does not answer within 0.05 s"), (True, "refused")])
async def test_one_deadline_for_all_queries_and_none_is_left_behind(refuses: bool, message: str) -> None:
    source = Hung(refuses=refuses)
    with pytest.raises(Unanswered, match=message):
        await asyncio.wait_for(source.read(), 60.0)
    assert source.num_given_up == len(ALL) - refuses
    await source.close()


async def test_a_defect_in_a_query_is_not_taken_for_an_outage() -> None:
    class Broken(Hung):
        async def _ask(self, *_: Any) -> Any:
            raise ZeroDivisionError

    source = Broken(refuses=False)
    with pytest.raises(ExceptionGroup):
        await source.read()
    await source.close()


async def test_the_cluster_decides_by_the_windows_that_prometheus_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    prometheus, autoscaler = Mock(return_value=AsyncMock()), Mock()
    monkeypatch.setattr(autoscale_parts, "Prometheus", prometheus)
    monkeypatch.setattr(autoscale_parts, "Autoscaler", autoscaler)
    settings = Settings(operator_image="i", operator_namespace="n", pod_name="p", prometheus_url="http://127.0.0.1:9")
    parts: Any = SimpleNamespace()
    async with AsyncExitStack() as stack:
        autoscale_parts.autoscaler_of(settings, parts, parts, parts, may_act=lambda: True, stack=stack)
    windows = prometheus.call_args.args[1]
    assert autoscaler.call_args.kwargs["spans"] == Spans(arrivals=windows.quick, lengths=windows.slow)


@pytest.mark.parametrize(("period", "arrivals", "lengths"), [(2, 4.0, 8.0), (15, 30.0, 60.0), (60, 45.0, 60.0)])
def test_proa_up_decides_by_its_own_windows(period: int, arrivals: float, lengths: float) -> None:
    windows = windows_of(float(period))
    assert f"[{arrivals:g}s]" in promql(ARRIVALS, windows)
    assert f"[{lengths:g}s]" in promql(PROMPTS_SUM, windows)
    body = service_body(autoscaling={"mode": "Active", "behavior": {"periodSeconds": period}})
    service = DisaggregatedService.model_validate_json(json.dumps({**body, "metadata": {"name": "tiny"}}))
    scaling: Any = SimpleNamespace(service=service)
    assert config_of(scaling, None).spans == Spans(arrivals=arrivals, lengths=lengths)


async def test_proa_up_does_not_decide_by_some_of_its_workers(tmp_path: Path) -> None:
    async def read() -> dict[Query, Any]:
        place = {"namespace": NAMESPACE, "service": "s"}
        return {query: [({**labels, **place}, value) for labels, value in rows] for query, rows in answers().items()}

    two = Count(wanted=2, serving=2, leaving=0)  # of which one is scraped
    parts: list[Any] = [
        SimpleNamespace(service="s", state_dir=tmp_path),
        config(),
        SimpleNamespace(count=lambda _: two, want=lambda _: None, processes=list),
        SimpleNamespace(read=read),
        SimpleNamespace(say=lambda _: None),
        DecisionLog(tmp_path, lambda _: None),
    ]
    autoscaler = Autoscaler(*parts)
    missing = [(await autoscaler.decide_once(15.0 * number)).record["signals"]["missing"] for number in range(2)]
    assert missing == [[], ["some groups or gateways are not scraped"]]


async def test_decisions_missed_beside_a_slow_gateway_are_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks, decided = 0.0, 0, []
    slow = {3: 50.0}  # seconds of the third look at the gateway: a period of 15 s passes three times

    async def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    async def sync() -> None:
        nonlocal clock, looks
        looks += 1
        clock += slow.get(looks, 0.0)

    async def decide_once(_: float) -> None:
        decided.append(clock)
        if len(decided) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(local_autoscale, "time", SimpleNamespace(monotonic=lambda: clock, time=lambda: clock))
    monkeypatch.setattr(local_autoscale, "asyncio", SimpleNamespace(sleep=sleep))
    parts: list[Any] = [SimpleNamespace(service="s"), config(), SimpleNamespace(sync=sync), None, None, None]
    autoscaler = Autoscaler(*parts)
    monkeypatch.setattr(autoscaler, "decide_once", decide_once)
    with pytest.raises(asyncio.CancelledError):
        await autoscaler.run()
    assert decided == [53.0, 68.0, 83.0]
