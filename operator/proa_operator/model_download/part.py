"""One file while it is being filled: FILE.part, hashed as it grows, renamed when its digest is right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from proa_operator.model_download.errors import WrongDigest
from proa_operator.model_download.listing import PART_SUFFIX, ModelFile

_READ_BYTES = 1 << 20


class Part:
    """A context manager. `size` bytes are there and hashed; `num_pieces` transfers brought them."""

    def __init__(self, final: Path, file: ModelFile, guard: Callable[[], None]) -> None:
        self._final = final
        self._path = final.with_name(final.name + PART_SUFFIX)
        self._file = file
        self._guard = guard
        self._hasher = file.digest.hasher(file.size)
        self._fd = -1
        self.size = 0
        self.num_pieces = 0

    def __enter__(self) -> Part:
        """Reads what an earlier run left; too much of it is worth nothing."""
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if os.fstat(self._fd).st_size > self._file.size:
            os.ftruncate(self._fd, 0)
        while chunk := os.pread(self._fd, _READ_BYTES, self.size):
            self._guard()
            self._hasher.update(chunk)
            self.size += len(chunk)
        self.num_pieces = int(self.size > 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)
        if isinstance(error, WrongDigest):
            self._path.unlink(missing_ok=True)

    def reset(self) -> None:
        """To no bytes."""
        os.ftruncate(self._fd, 0)
        self._hasher = self._file.digest.hasher(self._file.size)
        self.size = self.num_pieces = 0

    def write(self, chunk: bytes) -> None:
        """At its place: even a writer that lost the lock would write the same bytes there. WrongDigest for too many."""
        if self.size + len(chunk) > self._file.size:
            raise WrongDigest(f"{self._file.path}: more bytes came than the {self._file.size} that are listed: refused")
        view, at = memoryview(chunk), self.size
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written
        self._hasher.update(chunk)
        self.size = at

    def verify(self) -> None:
        """WrongDigest unless the whole file is what was listed."""
        found = self._hasher.hexdigest()
        if self.size != self._file.size or found != self._file.digest.hex:
            raise WrongDigest(
                f"{self._file.path}: {self._file.digest} is listed, but {found} came ({self.size} bytes): refused and"
                " removed; the source or something on the way changes the file"
            )

    def finish(self) -> None:
        """Under its final name, on the disk."""
        os.fsync(self._fd)
        os.rename(self._path, self._final)
