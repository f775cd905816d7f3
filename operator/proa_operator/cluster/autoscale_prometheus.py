"""Prometheus' HTTP API: all queries of a decision, side by side, within one deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from proa_operator.autoscale.queries import ALL, Windows, promql
from proa_operator.autoscale.readings import Sample
from proa_operator.autoscale.source import Answers, Unanswered

_AT_ONCE = 4


class Prometheus:
    """Instant queries. `url` is the root, such as http://prometheus.monitoring:9090."""

    def __init__(self, url: str, windows: Windows, *, seconds: float = 10.0) -> None:
        self._url = url.rstrip("/") + "/api/v1/query"
        self._texts = {query: promql(query, windows) for query in ALL}
        self._timeout = aiohttp.ClientTimeout(total=seconds)
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self) -> Answers:
        """All answers. Raises Unanswered when one of them fails: half an answer is none."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        found = await asyncio.gather(*(self._ask(self._session, text) for text in self._texts.values()))
        return dict(zip(self._texts, found, strict=True))

    async def close(self) -> None:
        """End the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, session: aiohttp.ClientSession, text: str) -> list[Sample]:
        async with self._slots:
            try:
                async with session.post(self._url, data={"query": text}) as answer:
                    body = await answer.json(content_type=None)
            except (TimeoutError, aiohttp.ClientError, ValueError) as error:
                reason = str(error) or type(error).__name__
                raise Unanswered(f"Prometheus at {self._url} does not answer: {reason}") from None
        return samples_of(body)


def samples_of(body: Any) -> list[Sample]:
    """Labels and values of an instant vector. Raises Unanswered for anything else."""
    try:
        if body["status"] != "success":
            raise Unanswered(f"Prometheus refuses a query: {body.get('error', 'without a reason')}")
        return [(sample["metric"], float(sample["value"][1])) for sample in body["data"]["result"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise Unanswered("what answers at the URL of Prometheus is not its HTTP API: check the URL") from None
