"""What `proa up` shows: a live table on a terminal, one line for each change elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from proa_operator.local.child import Child
from proa_operator.local.process import LocalPlan
from proa_operator.local.scrape import WorkerLoad, worker_load
from proa_operator.local.table import Row, describe, table

REFRESH_SECONDS = 1.0


class View(Protocol):
    """Shows the processes while they live."""

    def changed(self, child: Child, detail: str) -> None:
        """A process entered another state."""

    def say(self, text: RenderableType) -> None:
        """Something else that the user should read."""

    async def follow(self, children: Iterable[Child]) -> None:
        """Shows `children`, which may become more and fewer. Runs beside the processes until it is cancelled."""


class PlainView:
    """One line for each change; for logs, pipes and tests."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def changed(self, child: Child, detail: str) -> None:
        time = datetime.now().strftime("%H:%M:%S")
        self._console.print(
            f"{time}  {describe(child, detail)}", style="dim", highlight=False, markup=False, soft_wrap=True
        )

    def say(self, text: RenderableType) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    async def follow(self, children: Iterable[Child]) -> None:
        await asyncio.Event().wait()


class LiveView:
    """A table that is redrawn every second, with what happened above it."""

    def __init__(self, console: Console, plan: LocalPlan) -> None:
        self._console = console
        self._plan = plan
        self._children: Iterable[Child] = ()
        self._loads: dict[str, WorkerLoad | None] = {}
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def changed(self, child: Child, detail: str) -> None:
        if detail:
            self.say(Text(f"{datetime.now():%H:%M:%S}  {describe(child, detail)}", style="dim"))
        self._draw()

    def say(self, text: RenderableType) -> None:
        self._live.console.print(text, highlight=False, markup=False)

    async def follow(self, children: Iterable[Child]) -> None:
        self._children = children
        with self._live:
            async with httpx.AsyncClient(timeout=REFRESH_SECONDS, trust_env=False) as client:
                while True:
                    self._draw()
                    await asyncio.gather(asyncio.sleep(REFRESH_SECONDS), *self._scrapes(client))

    def _scrapes(self, client: httpx.AsyncClient) -> list[asyncio.Task[None]]:
        workers = [child for child in self._children if child.process.role.is_worker]
        return [asyncio.create_task(self._scrape(client, child)) for child in workers]

    async def _scrape(self, client: httpx.AsyncClient, child: Child) -> None:
        url = child.process.metrics_url
        self._loads[child.process.name] = await worker_load(client, url) if child.is_serving.is_set() else None

    def _draw(self) -> None:
        rows = [Row.of(child, self._loads.get(child.process.name)) for child in self._children]
        foot = Text(f"Ctrl-C stops everything. Logs: {self._plan.state_dir}", style="dim")
        self._live.update(Group(table(rows, self._plan), foot), refresh=True)
