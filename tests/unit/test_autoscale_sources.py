"""Who answers the autoscaler: a Prometheus that hangs or refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from proa_operator.autoscale.queries import ALL, Windows
from proa_operator.autoscale.source import Unanswered
from proa_operator.cluster.autoscale_prometheus import Prometheus


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
