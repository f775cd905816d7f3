"""Where local mode keeps its logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def default_state_dir(environ: Mapping[str, str], *, service: str, port: int) -> Path:
    """One folder for each service and port, so that two services, or two copies of one, do not mix their logs."""
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/tmp")) / ".local" / "state")
    return Path(base) / "proa" / f"{service}-{port}"
