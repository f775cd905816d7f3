"""What all tests share: Triton's switch, and Debian's Prometheus, installed where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import hypothesis
import pytest

from testbed import debian
from testbed.errors import BedUnavailable

os.environ.setdefault("TRITON_INTERPRET", "1")
"""Triton reads it when a kernel's module is first imported, by whichever test."""

UNTIMED: Final = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
"""What limits seconds fails on a busy machine, and says nothing about what is tested."""
hypothesis.settings.register_profile("proa", derandomize=True, **UNTIMED)
hypothesis.settings.register_profile("search", max_examples=1000, **UNTIMED)
hypothesis.settings.load_profile("proa")
"""The same examples in each run: what others find, `--hypothesis-profile=search` looks for (docs/testbed.md)."""

PROGRAMS = {"prometheus": "prometheus", "promtool": "prometheus"}
Promtool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _the_same_draws_in_each_run() -> None:
    """Of torch's own generator, for tests that name no seed."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install here, where no test's timer runs."""
    wanted = any({"promtool", "prometheus_program"} & set(getattr(item, "fixturenames", ())) for item in session.items)
    if wanted and not session.config.option.collectonly:
        with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            try:
                debian.install(_missing)
            except BedUnavailable as error:
                print(f"left out: {error}")


def _missing() -> list[str]:
    return sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {PROGRAMS[name]}")
    return found


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    """Path of the server."""
    return _program("prometheus")


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Run promtool; the finished run, whatever its status."""
    program = _program("promtool")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)

    return run
