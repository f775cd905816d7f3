"""kopf's part: the process, its signals, and the streams of services and of Events, which are few.

Of kopf only `on.event` is used: no annotations, no finalizers, no diffs, no peering, no posting of events. The many
objects that belong to services come by `watch.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import kopf

from proa_operator.cluster.connect import connection
from proa_operator.cluster.kinds import EVENT, SERVICE, Kind
from proa_operator.cluster.pod_refusals import SELECTOR
from proa_operator.cluster.watch import OnEvent


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf would copy each object for the differences that nobody here looks at."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        raise AssertionError("only on.change handlers store a base of differences, and there are none")


def settings_for() -> kopf.OperatorSettings:
    """Timeouts find a watch that went silent; a field selector keeps other Events on the server."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 120
    settings.watching.client_timeout = 150
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.watching.field_selectors[EVENT.group, EVENT.version, EVENT.plural] = SELECTOR
    settings.persistence.diffbase_storage = _NoDiffs()
    return settings


def registry_for(
    on_event: OnEvent, on_end: Callable[[], Awaitable[None]], *, sees_events: bool
) -> kopf.OperatorRegistry:
    """One handler for each kind, with an empty type for what was there at the start.

    `on_end` is awaited before kopf waits for what still runs.
    """
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    kopf.on.cleanup(registry=registry)(_cleanup(on_end))
    for kind in (SERVICE, EVENT) if sees_events else (SERVICE,):
        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=registry)(
            _handler(kind, on_event)
        )
    return registry


def quiet_kopf() -> None:
    """kopf tells of each event that it handles."""
    for name in ("kopf.objects", "kopf._core", "kopf._cogs", "kopf.activities"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _handler(kind: Kind, on_event: OnEvent) -> Callable[..., Any]:
    async def handle(event: Any, **_: Any) -> None:
        on_event(kind, event["type"] or "", event["object"])

    return handle


def _cleanup(on_end: Callable[[], Awaitable[None]]) -> Callable[..., Any]:
    async def clean_up(**_: Any) -> None:
        await on_end()

    return clean_up


async def _login(**_: Any) -> kopf.ConnectionInfo:
    return kopf.ConnectionInfo(**asdict(connection(os.environ)))
