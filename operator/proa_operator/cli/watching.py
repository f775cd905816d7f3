"""Showing something again and again until Ctrl-C: in place on a terminal, elsewhere once for each change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import typer
from rich.console import RenderableType
from rich.live import Live

from proa_operator.cli.output import Output, as_text, console, show

T = TypeVar("T")
WATCH_SECONDS = 2.0

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show changes until Ctrl-C.")]


async def follow(
    read: Callable[[], Awaitable[T]],
    output: Output,
    table: Callable[[T], RenderableType],
    value: Callable[[T], Any] = lambda found: found,
) -> None:
    """`value` is what JSON and YAML print of what was read; they print one document for each change."""
    if output is Output.TABLE and console().is_terminal:
        await _live(read, table)
    shown: list[T] = []
    while True:
        found = await read()
        if shown != [found]:
            shown = [found]
            if output is Output.YAML:
                typer.echo(f"---\n{as_text(value(found), output)}")
            else:
                show(value(found), output, partial(table, found))
        await asyncio.sleep(WATCH_SECONDS)


async def _live(read: Callable[[], Awaitable[T]], table: Callable[[T], RenderableType]) -> None:
    with Live(console=console(), auto_refresh=False, screen=False) as live:
        while True:
            live.update(table(await read()), refresh=True)
            await asyncio.sleep(WATCH_SECONDS)
