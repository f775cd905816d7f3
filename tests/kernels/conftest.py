"""Kernels run in Triton's interpreter on CPU tensors (tests/conftest.py sets the switch)."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Triton 3.6's interpreter turns arrays of one element into numbers, which NumPy 2.4 refuses."""
    if _release("triton") >= (3, 7):
        return
    if _release("numpy") >= (2, 4):
        marker = pytest.mark.skip(reason="the interpreter of Triton 3.6 needs NumPy < 2.4")
    else:
        marker = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(marker)


def _release(package: str) -> tuple[int, int]:
    major, minor = version(package).split(".")[:2]
    return int(major), int(minor)
