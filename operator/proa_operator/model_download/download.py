"""The whole download: look, lock, list, fetch, publish."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import httpx

from proa_operator.model_download.errors import Refused, WrongDigest
from proa_operator.model_download.fetch import Fetch, Pace
from proa_operator.model_download.hub import Hub, HubAuthority
from proa_operator.model_download.listing import Listing
from proa_operator.model_download.lock import FolderLock
from proa_operator.model_download.progress import Phase, Progress
from proa_operator.model_download.registry import Registry
from proa_operator.model_download.registry_login import RegistryAuthority
from proa_operator.model_download.retry import Retry
from proa_operator.model_download.settings import Settings
from proa_operator.model_download.stop import Stop
from proa_operator.model_download.store import Store
from proa_operator.model_download.uri import HubUri
from proa_operator.model_download.web import TIMEOUT, Web, is_loopback

_log = logging.getLogger(__name__)


class Lister(Protocol):
    """A model in a hub or in a registry."""

    def listing(self, revision: str) -> Listing:
        """Of a pinned revision, or of the one in the URI when empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the list comes from, and how the files are asked for."""

    lister: Lister
    web: Web


def download(settings: Settings, progress: Progress, stop: Stop) -> None:
    """Returns when the target is complete; asks nobody when it already is. Errors: see errors.py, and OSError."""
    store = Store(settings.target, str(settings.uri))
    if store.is_complete():
        progress.enter(Phase.COMPLETE)
        return
    with FolderLock(store.lock_folder, settings.lock, stop) as lock:
        if not store.is_complete():
            store.reopen()
            _fill(settings, store, lock, progress, stop)
    # NOTE: a waiter may sit in this folder; it makes it again, and finds the model complete.
    shutil.rmtree(store.lock_folder, ignore_errors=True)
    progress.enter(Phase.COMPLETE)


def _fill(settings: Settings, store: Store, lock: FolderLock, progress: Progress, stop: Stop) -> None:
    retry = Retry(patience=settings.patience, stop=stop)
    progress.enter(Phase.LISTING)
    with _source(settings) as source:
        listing = _listing(source.lister, store, retry)
        store.keep(listing)
        store.check_room(listing)
        progress.expect(listing.total_bytes)
        progress.enter(Phase.DOWNLOADING)
        _log.info("model", extra={"uri": listing.uri, "revision": listing.revision, "files": len(listing.files)})
        fetch = Fetch(
            web=source.web, store=store, progress=progress, retry=retry, stop=stop, guard=lock.check, pace=Pace()
        )
        fetch.all(listing, settings.num_parallel)
        lock.check()
        store.publish(listing)


def _listing(lister: Lister, store: Store, retry: Retry) -> Listing:
    """Of the revision that an earlier run began with, if the source still has it."""
    if pin := store.pinned():
        try:
            return retry.run(lambda: lister.listing(pin))
        except WrongDigest:
            raise
        except Refused as error:
            _log.warning("the revision is gone, starting anew", extra={"revision": pin, "reason": str(error)})
    return retry.run(lambda: lister.listing(""))


@contextmanager
def _source(settings: Settings) -> Iterator[Source]:
    uri = settings.uri
    with httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client:
        if isinstance(uri, HubUri):
            web = Web(client, HubAuthority(uri, settings.endpoint, settings.token))
            yield Source(lister=Hub(uri, settings.endpoint, web), web=web)
        else:
            scheme = "http" if is_loopback(httpx.URL(f"//{uri.host}").host) else "https"
            base = f"{scheme}://{uri.host}/v2"
            web = Web(client, RegistryAuthority(uri, base, settings.token, client))
            yield Source(lister=Registry(uri, base, web), web=web)
