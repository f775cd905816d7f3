"""What a source says it has: one revision and its files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from proa_operator.model_download.digest import Digest
from proa_operator.model_download.errors import Refused

COMPLETE = "complete.json"
"""Written into the finished folder by the download itself."""
PART_SUFFIX = ".part"
_MAX_NAME = 240
_MAX_FILES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """`path` is relative, with slashes; `size` in bytes; `url` is where its content is."""

    path: str
    size: int
    digest: Digest
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """`revision` is pinned: a commit, or the digest of a manifest. It names the same files for ever."""

    uri: str
    revision: str
    files: tuple[ModelFile, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def checked(files: Iterable[ModelFile]) -> tuple[ModelFile, ...]:
    """Sorted by path. Refused for a name that leaves the folder, two files of one name, a size below zero."""
    found: dict[str, ModelFile] = {}
    for file in files:
        check_path(file.path)
        if file.size < 0 or found.setdefault(file.path, file) is not file:
            raise Refused(f"{file.path} is listed twice or has no size: the source's list of files is broken")
    if len(found) > _MAX_FILES:
        raise Refused(f"the source lists {len(found)} files, more than {_MAX_FILES}: this is not a checkpoint")
    folders = {"/".join(path.split("/")[:depth]) for path in found for depth in range(1, path.count("/") + 1)}
    if both := sorted(folders & found.keys()):
        raise Refused(f"{both[0]} is listed as a file and as a folder: the source's list of files is broken")
    return tuple(found[path] for path in sorted(found))


def check_path(path: str) -> None:
    """Refused unless the path stays inside the folder, is printable, and is none of our own names."""
    parts = path.split("/")
    is_plain = all(part not in ("", ".", "..") and len(part.encode()) <= _MAX_NAME for part in parts)
    is_odd = any(character == "\\" or unicodedata.category(character).startswith("C") for character in path)
    if not is_plain or is_odd:
        raise Refused(f"the source lists a file named {path[:80]!r}, not a plain path inside the model: refused")
    if path == COMPLETE or path.endswith(PART_SUFFIX):
        raise Refused(f"the source lists {path[:80]!r}, a name that the download itself needs: rename it there")
