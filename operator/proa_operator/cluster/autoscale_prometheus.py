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
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self) -> Answers:
        """All answers. Raises Unanswered when one of them fails: half an answer is none, so the others are given up."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(self._seconds), asyncio.TaskGroup() as group:
                asked = {
                    query: group.create_task(self._ask(self._session, text)) for query, text in self._texts.items()
                }
        except TimeoutError:
            raise Unanswered(f"Prometheus at {self._url} does not answer within {self._seconds:g} s") from None
        except ExceptionGroup as failures:
            raise _cause(failures) from None
        return {query: task.result() for query, task in asked.items()}

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


def _cause(failures: ExceptionGroup[Exception]) -> Exception:
    """The first refusal; the group itself when a defect is among them."""
    refusals, defects = failures.split(Unanswered)
    return failures if defects or refusals is None else refusals.exceptions[0]


def samples_of(body: Any) -> list[Sample]:
    """Labels and values of an instant vector. Raises Unanswered for anything else."""
    try:
        if body["status"] != "success":
            raise Unanswered(f"Prometheus refuses a query: {body.get('error', 'without a reason')}")
        return [(sample["metric"], float(sample["value"][1])) for sample in body["data"]["result"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise Unanswered("what answers at the URL of Prometheus is not its HTTP API: check the URL") from None
