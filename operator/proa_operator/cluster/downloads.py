"""How far model downloads are: asked from the downloading pods, which tell it on their progress port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import aiohttp

from proa_operator.cluster.cache import Cache, ServiceKey
from proa_operator.cluster.facts import PodFacts
from proa_operator.cluster.kinds import POD
from proa_operator.names import DOWNLOAD_PORTS, Component, Port

_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Bytes of one download; a total of 0 is unknown."""

    bytes_done: int = 0
    bytes_total: int = 0


class Downloads:
    """`on_news` is called with a service whose download got on."""

    def __init__(
        self, cache: Cache, on_news: Callable[[ServiceKey], None], port: int = DOWNLOAD_PORTS[Port.PROGRESS]
    ) -> None:
        self._cache, self._on_news, self._port = cache, on_news, port
        self._known: dict[ServiceKey, Progress] = {}

    def of(self, service: ServiceKey) -> Progress:
        """The last answer. It stays when the pod has ended, until the operator does."""
        return self._known.get(service, Progress())

    async def read(self) -> None:
        """Ask every pod that downloads; no answer leaves what is known."""
        pods = list(_downloading(self._cache))
        if not pods:
            return
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for service, ip in pods:
                found = await self._ask(session, ip)
                if found is not None and found != self._known.get(service):
                    self._known[service] = found
                    self._on_news(service)

    async def _ask(self, session: aiohttp.ClientSession, ip: str) -> Progress | None:
        host = f"[{ip}]" if ":" in ip else ip
        try:
            async with session.get(f"http://{host}:{self._port}/progress") as answer:
                told = await answer.json()
                return Progress(bytes_done=int(told["bytesDone"]), bytes_total=int(told["bytesTotal"] or 0))
        except (TimeoutError, aiohttp.ClientError, KeyError, TypeError, ValueError):
            return None


def _downloading(cache: Cache) -> Iterator[tuple[ServiceKey, str]]:
    for pod in cache.all(POD):
        facts = pod.facts
        if isinstance(facts, PodFacts) and facts.component == Component.DOWNLOAD and facts.is_started and facts.ip:
            yield (pod.namespace, pod.service), facts.ip
