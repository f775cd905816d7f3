"""The GPUs of this machine, counted without importing torch: an operator never does, and it would take seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NVIDIA, AMD = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """Devices that workers may use, and the variable that gives one of them to a process."""

    variable: str
    ids: tuple[str, ...]

    def env_of(self, worker_idx: int) -> tuple[tuple[str, str], ...]:
        """Worker by worker in turn; with one device there is nothing to choose."""
        return ((self.variable, self.ids[worker_idx % len(self.ids)]),) if len(self.ids) > 1 else ()


def find_gpus(environ: Mapping[str, str], root: Path = Path("/")) -> Gpus | None:
    """The devices that the environment allows, else those in `root`/dev; None without a GPU."""
    for variable in (AMD, NVIDIA):
        if variable in environ:
            ids = tuple(filter(None, (word.strip() for word in environ[variable].split(","))))
            return Gpus(variable=variable, ids=ids) if ids and ids != ("-1",) else None
    if (root / "dev" / "kfd").exists():
        return _numbered(AMD, root / "dev" / "dri", r"renderD\d+")
    return _numbered(NVIDIA, root / "dev", r"nvidia\d+")


def _numbered(variable: str, folder: Path, pattern: str) -> Gpus | None:
    count = sum(re.fullmatch(pattern, entry.name) is not None for entry in folder.iterdir()) if folder.is_dir() else 0
    return Gpus(variable=variable, ids=tuple(map(str, range(count)))) if count else None
