"""Who answers the autoscaler: a Prometheus that hangs or refuses, and workers of `proa up` that are not scraped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from proa_operator.autoscale.queries import ALL, Query, Windows
from proa_operator.autoscale.source import Unanswered
from proa_operator.cluster.autoscale_prometheus import Prometheus
from proa_operator.local.autoscale import Autoscaler
from proa_operator.local.autoscale_fleet import Count
from proa_operator.local.decision_log import DecisionLog
from proa_operator.local.prometheus import NAMESPACE

from tests.unit.autoscale_cases import config
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
        await asyncio.wait_for(source.read(), 5.0)
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
