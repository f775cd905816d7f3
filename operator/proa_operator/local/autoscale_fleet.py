"""Starts and retires worker processes until there are as many as wanted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from proa_operator.local.autoscale_gateway import Gateway
from proa_operator.local.child import Child
from proa_operator.local.process import Process, Role, Scaling
from proa_operator.local.supervise import Supervisor

GATEWAY = "gateway"
_UNLISTED_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Workers of one role."""

    wanted: int
    serving: int
    leaving: int


class Fleet:
    """A worker that retires leaves the gateway first, then drains: no request is lost."""

    def __init__(self, supervisor: Supervisor, scaling: Scaling, gateway: Gateway) -> None:
        self._supervisor, self._scaling, self._gateway = supervisor, scaling, gateway
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._known: frozenset[str] = frozenset()
        """What the gateway listed last."""
        self._wanted: dict[Role, int] = {}
        for child in self._workers():
            role = child.process.role
            self._wanted[role] = self._wanted.get(role, 0) + 1

    def count(self, role: Role) -> Count:
        """What there is of a role."""
        own = [child for child in self._workers() if child.process.role is role]
        staying = [child for child in own if child.process.name not in self._retiring]
        return Count(
            wanted=self._wanted.get(role, 0),
            serving=sum(child.is_serving.is_set() for child in staying),
            leaving=len(own) - len(staying),
        )

    def processes(self) -> list[Process]:
        """Everything that may be scraped."""
        return [child.process for child in self._supervisor.children.values() if child.process.role is not Role.METRICS]

    def want(self, numbers: Mapping[Role, int]) -> None:
        """Ask for so many; `sync` gets there."""
        for role, number in numbers.items():
            self._wanted[role] = number
            staying = self._staying(role)
            for child in staying[number:]:
                self._retire(child.process.name)
            for _ in range(number - len(staying)):
                self._supervisor.add(self._scaling.make_worker(role, self._free_number(role)), needed_by=GATEWAY)

    async def sync(self) -> None:
        """Tell the gateway who serves. Its command line is that of the start, so it is told again when it restarts."""
        serving = {
            url_of(child.process): child.process.role
            for child in self._workers()
            if child.is_serving.is_set() and child.process.name not in self._retiring
        }
        self._known = await self._gateway.sync(serving) or self._known

    async def close(self) -> None:
        """Leave the rest to the supervisor, which stops everything."""
        for task in self._retiring.values():
            task.cancel()
        await asyncio.gather(*self._retiring.values(), return_exceptions=True)
        await self._gateway.close()

    def _workers(self) -> Iterator[Child]:
        return (child for child in list(self._supervisor.children.values()) if child.process.role.is_worker)

    def _staying(self, role: Role) -> list[Child]:
        own = [child for child in self._workers() if child.process.role is role]
        return sorted((child for child in own if child.process.name not in self._retiring), key=_number_of)

    def _free_number(self, role: Role) -> int:
        taken = {_number_of(child) for child in self._workers() if child.process.role is role}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def _retire(self, name: str) -> None:
        task = asyncio.create_task(self._leave(self._supervisor.children[name].process))
        self._retiring[name] = task
        task.add_done_callback(lambda _: self._retiring.pop(name, None))

    async def _leave(self, process: Process) -> None:
        url, until = url_of(process), time.monotonic() + _UNLISTED_SECONDS
        await self.sync()
        while url in self._known and time.monotonic() < until:
            await asyncio.sleep(0.5)
            await self.sync()
        if process.name in self._supervisor.children:  # else it was given up meanwhile
            await self._supervisor.remove(process.name)


def url_of(process: Process) -> str:
    """As the gateway spells it."""
    return f"grpc://127.0.0.1:{process.port}"


def _number_of(child: Child) -> int:
    return int(child.process.name.rsplit("-", 1)[1])
