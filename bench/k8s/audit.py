"""Requests in the API server's audit log with both of their times, read on from where the last reading ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = ("create", "update", "patch", "delete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Times are seconds since the epoch on the API server's clock, to the microsecond."""

    agent: str
    verb: str
    resource: str
    """As "pods/status"."""
    namespace: str
    name: str
    code: int
    received: float
    answered: float

    @property
    def is_write(self) -> bool:
        """Whether it changes something when it succeeds."""
        return self.verb in WRITES and self.resource != "selfsubjectaccessreviews"


class AuditTail:
    """Starts at the end that the log has now; what is there already is never read.

    The API server renames the log at 100 MB, to a name that sorts by time, and starts a new one.
    """

    def __init__(self, path: Path) -> None:
        """Of the log that is being written."""
        self._path, self._file, self._offset = path, path.stat().st_ino, path.stat().st_size

    def read(self) -> list[Request]:
        """What ended since the last call, in the order of the log; a line that is half written is left for later."""
        files = [*sorted(self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}")), self._path]
        first = next(position for position, file in enumerate(files) if file.stat().st_ino == self._file)
        found: list[Request] = []
        for file in files[first:]:
            if file.stat().st_ino != self._file:
                self._file, self._offset = file.stat().st_ino, 0
            found += self._rest_of(file)
        return found

    def _rest_of(self, file: Path) -> list[Request]:
        with file.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = (json.loads(line) for line in whole.splitlines())
        return [_request(event) for event in events if event["stage"] == "ResponseComplete"]


def _request(event: dict[str, Any]) -> Request:
    what = event.get("objectRef", {})
    parts = [what.get("resource", ""), *([what["subresource"]] if "subresource" in what else [])]
    return Request(
        agent=event.get("userAgent", ""),
        verb=event["verb"],
        resource="/".join(parts),
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        received=_seconds(event["requestReceivedTimestamp"]),
        answered=_seconds(event["stageTimestamp"]),
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
