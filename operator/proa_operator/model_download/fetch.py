"""Files into the store: several at a time, each from where it stopped."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from proa_operator.errors import ProaError
from proa_operator.model_download.errors import AttemptFailed, RangeRefused, Refused, Stopped, WrongDigest
from proa_operator.model_download.listing import Listing, ModelFile
from proa_operator.model_download.part import Part
from proa_operator.model_download.progress import Progress
from proa_operator.model_download.retry import Retry
from proa_operator.model_download.stop import Stop
from proa_operator.model_download.store import Store
from proa_operator.model_download.web import Web

_log = logging.getLogger(__name__)
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A transfer that brings less than `min_bytes` in `seconds` is broken off and asked for again."""

    seconds: float = 60.0
    min_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """`guard` raises when this process must not write any more."""

    web: Web
    store: Store
    progress: Progress
    retry: Retry
    stop: Stop
    guard: Callable[[], None]
    pace: Pace

    def all(self, listing: Listing, num_parallel: int) -> None:
        """Small files first, so that a wrong model is seen early. The first failure stops the others."""
        ordered = sorted(listing.files, key=lambda file: (file.size, file.path))
        with ThreadPoolExecutor(num_parallel, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(self._or_stop, file) for file in ordered]
        _raise_worst(futures)

    def _or_stop(self, file: ModelFile) -> None:
        try:
            self._one(file)
        except BaseException:
            self.stop.set()
            raise

    def _one(self, file: ModelFile) -> None:
        if self.store.has(file):
            self.progress.hold(file.path, file.size)
            return
        with Part(self.store.path(file), file, self._check) as part:
            self._fill(part, file)
            try:
                part.verify()
            except WrongDigest as error:
                if part.num_pieces < 2:
                    raise
                # NOTE: a piece may have been lost in a power failure, or come from another version of the file.
                _log.warning("fetched again from the start", extra={"reason": str(error)})
                part.reset()
                self._fill(part, file)
                part.verify()
            part.finish()
        _log.info("file is complete", extra={"path": file.path, "bytes": file.size, "digest": str(file.digest)})

    def _fill(self, part: Part, file: ModelFile) -> None:
        self.progress.hold(file.path, part.size)
        self.retry.run(lambda: self._attempt(part, file), lambda: part.size)

    def _attempt(self, part: Part, file: ModelFile) -> None:
        if part.size == file.size:
            return
        try:
            self._transfer(part, file)
        except RangeRefused:
            part.reset()
            raise
        if part.size < file.size:
            raise AttemptFailed(f"{file.path} ended after {part.size} of {file.size} bytes")

    def _transfer(self, part: Part, file: ModelFile) -> None:
        headers = {"Range": f"bytes={part.size}-"} if part.size else {}
        with self.web.open(file.url, headers) as response:
            _align(part, response)
            part.num_pieces += 1
            since, before = time.monotonic(), part.size
            for chunk in response.iter_raw():
                self._check()
                part.write(chunk)
                self.progress.hold(file.path, part.size)
                if (now := time.monotonic()) - since > self.pace.seconds:
                    if part.size - before < self.pace.min_bytes:
                        raise AttemptFailed(f"{file.path} comes too slowly: {part.size - before} bytes in a minute")
                    since, before = now, part.size

    def _check(self) -> None:
        self.stop.check()
        self.guard()


def _align(part: Part, response: httpx.Response) -> None:
    """A server may ignore the range and send all of it; one that sends another range is not believed."""
    if response.status_code == 200:
        if part.size:
            part.reset()
        return
    given = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if given is None or int(given[1]) != part.size:
        raise RangeRefused(f"{response.url.host} sends another range than was asked for")


def _raise_worst(futures: list[Future[None]]) -> None:
    """What only the user can mend comes first; that others were stopped says nothing."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for kind in (Refused, ProaError, Exception):
        for error in errors:
            if isinstance(error, kind) and not isinstance(error, Stopped):
                raise error
    if errors:
        raise errors[0]
