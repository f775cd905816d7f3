"""The autoscaler with its parts, for one operator process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from proa_operator.autoscale.queries import Windows
from proa_operator.cluster.api import Api
from proa_operator.cluster.autoscale import Autoscaler
from proa_operator.cluster.autoscale_profiles import Profiles
from proa_operator.cluster.autoscale_prometheus import Prometheus
from proa_operator.cluster.autoscale_write import Writer
from proa_operator.cluster.cache import Cache
from proa_operator.cluster.events import Events
from proa_operator.settings import Settings


def autoscaler_of(
    settings: Settings,
    api: Api,
    cache: Cache,
    events: Events,
    *,
    may_act: Callable[[], bool],
    stack: AsyncExitStack,
) -> Autoscaler:
    """Ready to run. Its connection to Prometheus ends with `stack`."""
    windows = Windows()
    source = Prometheus(settings.prometheus_url, windows) if settings.prometheus_url else None
    if source is not None:
        stack.push_async_callback(source.close)
    return Autoscaler(
        cache=cache,
        source=source,
        spans=windows.spans,
        profiles=Profiles(api, settings.namespaces),
        writer=Writer(api, cache),
        events=events,
        may_act=may_act,
        clock=time.time,
    )
