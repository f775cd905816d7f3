"""Image layers: reproducible tar files, kept in the cache by the hash of what they are made from."""

from __future__ import annotations

import compileall
import hashlib
import os
import py_compile
import shutil
import stat
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BedError
from testbed.store import cache_root, exclusively

BUILD_SECONDS = 600.0
KEPT_DAYS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """An uncompressed tar file and its digest ("sha256:...")."""

    path: Path
    digest: str


def layer(key: str, fill: Callable[[Path], None]) -> Layer:
    """The layer called `key`; when the cache lacks it, `fill` gets an empty folder that becomes the image's root."""
    path = cache_root() / "layers" / f"{key}.tar"
    with exclusively(path.with_suffix(".lock"), seconds=BUILD_SECONDS, what=f"waiting for another build of {key}"):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                root, partial = Path(scratch) / "root", Path(scratch) / "layer.tar"
                root.mkdir()
                fill(root)
                _pack(root, partial)
                partial.rename(path)
        os.utime(path)
    with path.open("rb") as content:
        return Layer(path=path, digest="sha256:" + hashlib.file_digest(content, "sha256").hexdigest())


def prune() -> None:
    """Remove layers that no bed has used for `KEPT_DAYS`: every change of the checkout makes a new one."""
    oldest = time.time() - KEPT_DAYS * 86400
    for path in (cache_root() / "layers").glob("*.tar"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)


def copy(source: Path, root: Path, target: str | Path = "") -> None:
    """Copy a file or a folder into an image's root, by default to where it is on this machine; no caches, no links."""
    place = root / str(target or source).lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.a", "test"))
    else:
        shutil.copy(source, place)


def compile_all(root: Path, folder: Path) -> None:
    """Byte code beside the sources, as containers cannot write it; it holds no times, which the tar file sets to 0."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    with warnings.catch_warnings():  # of other people's code
        warnings.simplefilter("ignore")
        compileall.compile_dir(folder, quiet=2, stripdir=str(root), prependdir="/", invalidation_mode=mode, workers=1)
    # NOTE: some packages ship templates that are no Python: only a wholly failed run is an error.
    if not any(folder.rglob("*.pyc")):
        raise BedError(f"no byte code could be made in {folder}")


def _pack(root: Path, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for item in sorted(root.rglob("*")):
            archive.add(item, arcname=str(item.relative_to(root)), recursive=False, filter=_normal)


def _normal(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owned by root, readable by all, no times: the same content gives the same bytes."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    if not member.issym():
        runs = member.isdir() or member.mode & stat.S_IXUSR
        member.mode |= 0o555 if runs else 0o444
    return member
