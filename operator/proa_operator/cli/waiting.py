"""Waiting for the cluster, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from proa_operator.errors import ServeError

EVERY_SECONDS = 2.0

Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done; exit code 1 at the deadline.")]
Timeout = Annotated[float, typer.Option("--timeout", min=1, help="Deadline of --wait, in seconds.")]


async def until(look: Callable[[], Awaitable[str]], *, seconds: float, what: str) -> None:
    """Look every two seconds until nothing is missing. ServeError at the deadline, with what `look` said last."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while missing := await look():
        if loop.time() + EVERY_SECONDS > end:
            raise ServeError(f"{what} is not done after {seconds:g} s: {missing}")
        await asyncio.sleep(EVERY_SECONDS)
