"""Fixtures over `checkpoints.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model.checkpoints import Harness, build_checkpoint, load_engine


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the named checkpoint; made once per process, never changed by tests."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            build_checkpoint(name, made[name])
        return made[name]

    return get


@pytest.fixture
def open_engine() -> Iterator[Callable[..., Harness]]:
    """`load_engine`, with every engine closed at the end."""
    opened: list[Harness] = []

    def get(folder: Path, **settings: Any) -> Harness:
        opened.append(load_engine(folder, **settings))
        return opened[-1]

    yield get
    for harness in opened:
        harness.engine.close()
