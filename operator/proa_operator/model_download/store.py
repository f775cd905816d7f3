"""The folders: TARGET when complete, .TARGET.partial beside it until then, moved by one rename."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from proa_operator.model_download.errors import NoRoom, Refused
from proa_operator.model_download.listing import COMPLETE, PART_SUFFIX, Listing, ModelFile

_log = logging.getLogger(__name__)
_MARGIN_BYTES = 16 << 20


class Store:
    """For one URI. Only the holder of the lock calls what writes."""

    def __init__(self, target: Path, uri: str) -> None:
        self.target = target
        self.lock_folder = target.parent / f".{target.name}.lock"
        self._uri = uri
        self._root = target.parent / f".{target.name}.partial"
        self._files = self._root / "files"
        self._pin = self._root / "pin.json"

    def is_complete(self) -> bool:
        """Every listed file is there with its size. Refused for a folder that holds something else."""
        record = self._record()
        return record is not None and not _damaged(self.target, record)

    def reopen(self) -> None:
        """A target that lost files becomes partial again, so that only those are fetched."""
        record = self._record()
        if record is None:
            return
        damaged = _damaged(self.target, record)
        _log.warning("the checkpoint is damaged", extra={"files": damaged[:5], "num_files": len(damaged)})
        self.forget()
        self._root.mkdir(parents=True)
        _write(self._pin, {"uri": self._uri, "revision": record["revision"]})
        os.rename(self.target, self._files)
        for path in [COMPLETE, *damaged]:
            (self._files / path).unlink(missing_ok=True)

    def pinned(self) -> str:
        """Revision that an earlier run began with; empty if none."""
        pin = _read(self._pin)
        return str(pin["revision"]) if pin is not None and pin.get("uri") == self._uri else ""

    def keep(self, listing: Listing) -> None:
        """Goes on with what is there, or starts anew if that is of another revision."""
        if self.pinned() != listing.revision:
            self.forget()
        self._files.mkdir(parents=True, exist_ok=True)
        _write(self._pin, {"uri": self._uri, "revision": listing.revision})

    def forget(self) -> None:
        """Drops what is partial."""
        if self._root.exists():
            shutil.rmtree(self._root)

    def path(self, file: ModelFile) -> Path:
        return self._files / file.path

    def has(self, file: ModelFile) -> bool:
        """It got its final name only after its digest was right and it was on the disk."""
        return _size(self.path(file)) == file.size

    def check_room(self, listing: Listing) -> None:
        """NoRoom when what is missing does not fit."""
        missing = listing.total_bytes - sum(self._held(file) for file in listing.files)
        there = os.statvfs(self._files)
        free = there.f_bavail * there.f_frsize
        if missing and missing + _MARGIN_BYTES > free:
            need, have = f"{missing / (1 << 30):.1f} GiB", f"{free / (1 << 30):.1f} GiB"
            place = self.target.parent
            raise NoRoom(f"{self._uri} needs {need} more, but {place} has {have} free: raise spec.model.cache.size")

    def publish(self, listing: Listing) -> None:
        """One rename, after all of it is on the disk."""
        files = [{"path": file.path, "size": file.size, "digest": str(file.digest)} for file in listing.files]
        _write(self._files / COMPLETE, {"uri": self._uri, "revision": listing.revision, "files": files})
        for folder in {self._files, *(self.path(file).parent for file in listing.files)}:
            _sync(folder)
        os.rename(self._files, self.target)
        _sync(self.target.parent)
        self.forget()

    def _held(self, file: ModelFile) -> int:
        path = self.path(file)
        return min(file.size, max(_size(path), _size(path.with_name(path.name + PART_SUFFIX)), 0))

    def _record(self) -> dict[str, Any] | None:
        """None when there is no target, or an empty one."""
        if not self.target.exists() or (self.target.is_dir() and not any(self.target.iterdir())):
            return None
        record = _read(self.target / COMPLETE)
        if record is None or not isinstance(record.get("files"), list):
            raise Refused(f"{self.target} is there but has no {COMPLETE}: it is not ours, move it away")
        if record.get("uri") != self._uri:
            raise Refused(f"{self.target} holds {record.get('uri')}, not {self._uri}: use another claim")
        return record


def _damaged(folder: Path, record: dict[str, Any]) -> list[str]:
    return [file["path"] for file in record["files"] if _size(folder / file["path"]) != file["size"]]


def _size(path: Path) -> int:
    """-1 without the file."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return -1


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, also after a power failure."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
