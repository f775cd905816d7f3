"""What all tests share: Triton's switch, and Debian's Prometheus, installed where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import hypothesis
import pytest

from testbed import debian
from testbed.errors import BedUnavailable

os.environ.setdefault("TRITON_INTERPRET", "1")
"""Triton reads it when a kernel's module is first imported, by whichever test."""

hypothesis.settings.register_profile("proa", deadline=None)
hypothesis.settings.load_profile("proa")
"""A deadline for each example fails on a busy machine, and says nothing about what is tested."""

PROGRAMS = {"prometheus": "prometheus", "promtool": "prometheus"}
Promtool = Callable[..., "subprocess.CompletedProcess[str]"]


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
