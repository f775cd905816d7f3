"""Kernels run in Triton's interpreter on CPU tensors (tests/conftest.py sets the switch)."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAUNCH = re.compile(r"(\w+(?:<[^<>;]*>)?)<<<([^;]*?), stream>>>\(([^;]*?)\);", re.DOTALL)
Emulate = Callable[[Path, int, str], ctypes.CDLL]


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


@pytest.fixture(scope="session")
def emulate() -> Emulate:
    """Builds CUDA/HIP text for the CPU in a new folder: launches become calls of the emulator, the rest stands."""
    return _emulate


def _emulate(folder: Path, wave: int, text: str) -> ctypes.CDLL:
    (folder / "hip").mkdir(parents=True)
    for name in ("cuda_runtime.h", "hip/hip_runtime.h"):
        (folder / name).write_text('#include "block_emulator.hpp"\n')
    source = folder / "kernels.cpp"
    source.write_text(
        LAUNCH.sub(r"emulator::launch(\2, [=] { \1(\3); });", text).replace("extern __shared__", "extern")
    )
    platform = ["-D__HIP_PLATFORM_AMD__"] if wave == 64 else []
    command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", f"-DEMULATED_WAVE={wave}", *platform]
    command += ["-Wno-unknown-pragmas", f"-I{folder}", f"-I{HERE}", str(source), "-o", str(folder / "kernels.so")]
    subprocess.run(command, check=True, timeout=240)
    return ctypes.CDLL(str(folder / "kernels.so"))
