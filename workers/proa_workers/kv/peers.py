"""All holders that a reader talks to: one link per address, replaced on restart, closed when the holder is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from proa_workers.core.lease import Reader
from proa_workers.errors import StaleTransfer, WorkerError
from proa_workers.kv.peer import PeerLink


class Peers:
    """`connect` makes a link to an address, raising a WorkerError when it cannot."""

    def __init__(self, connect: Callable[[str], Awaitable[PeerLink]]) -> None:
        self._connect = connect
        self._links: dict[str, PeerLink] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._failures: dict[str, WorkerError] = {}  # the last of each address: whoever waited for it shares it
        self._watchers: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._links)

    @asynccontextmanager
    async def link(self, address: str, holder: Reader) -> AsyncIterator[PeerLink]:
        """Link to `holder` at `address`; it stays open inside the block.

        Raises StaleTransfer when another engine or epoch answers there, and what `connect` raises.
        """
        link = await self._current(address, holder)
        async with self._using(link):
            yield link

    @asynccontextmanager
    async def existing(self, address: str) -> AsyncIterator[PeerLink | None]:
        """The link to `address` if there is one, as `link`; never connects."""
        link = self._links.get(address)
        if link is None:
            yield None
            return
        async with self._using(link):
            yield link

    async def close(self) -> None:
        """Close every link; nobody may be using one."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for address in list(self._links):
            await self._retire(address)

    async def _current(self, address: str, holder: Reader) -> PeerLink:
        earlier = self._failures.get(address)
        async with self._locks.setdefault(address, asyncio.Lock()):
            link = self._links.get(address)
            if link is None or link.holder != holder:
                failure = self._failures.get(address)
                if failure is not None and failure is not earlier:
                    raise type(failure)(str(failure))
                link = await self._replace(address)
        if link.holder != holder:
            raise StaleTransfer(
                f"{address} is now engine {link.holder.engine_id} epoch {link.holder.epoch}, not {holder.engine_id} "
                f"epoch {holder.epoch}: its blocks are gone, recompute the prompt"
            )
        return link

    async def _replace(self, address: str) -> PeerLink:
        try:
            link = await self._connect(address)
        except WorkerError as failure:
            self._failures[address] = type(failure)(str(failure))  # a copy holds no traceback
            raise
        await self._retire(address)
        self._links[address] = link
        watcher = asyncio.create_task(self._watch(link))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return link

    async def _watch(self, link: PeerLink) -> None:
        """Let go of a holder that is gone: a mapping of its pool would keep that memory from its successor."""
        await link.lost()
        if self._links.get(link.address) is link:
            await self._retire(link.address)

    async def _retire(self, address: str) -> None:
        link = self._links.pop(address, None)
        if link and not link.num_users:
            await link.close()

    @asynccontextmanager
    async def _using(self, link: PeerLink) -> AsyncIterator[None]:
        link.num_users += 1
        try:
            yield
        finally:
            link.num_users -= 1
            if not link.num_users and self._links.get(link.address) is not link:
                await link.close()
