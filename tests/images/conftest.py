"""`engine` builds images where buildah can: root, Debian, tier (b) of the test bed, which is asked for by default.

It needs Debian's mirror and a package index, as `make install` does.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import debian
from testbed.errors import BedUnavailable
from testbed.store import cache_root, exclusively
from testbed.tiers import left_out
from tests.images.image_bases import TORCH_FOLDER, python_base, rocm_base, write_torches
from tests.images.image_engine import Engine, pip_settings

PROGRAMS = {"buildah": "buildah", "debootstrap": "debootstrap"}
MOST_SECONDS = 3600
SIZES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Layers and sizes of what was built."""
    for line in config.stash.get(SIZES, []):
        terminalreporter.write_line(line)


def missing() -> list[str]:
    """Debian packages that are not here."""
    return [package for program, package in PROGRAMS.items() if shutil.which(program) is None]


def why_not() -> str:
    """One line; empty where images can be built."""
    if reason := left_out("b"):
        return reason
    if platform.freedesktop_os_release().get("ID") != "debian":
        return "their stand-in for python:3.12-slim is made on Debian only"
    try:
        debian.install(missing)
    except BedUnavailable as error:
        return str(error)
    return ""


@pytest.fixture
def said(pytestconfig: pytest.Config) -> list[str]:
    """Lines for the end of the run."""
    return pytestconfig.stash.setdefault(SIZES, [])


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Alone with its folder: two runs of the suite would remove each other's images."""
    if reason := why_not():
        pytest.skip(f"images are not built: {reason}")
    made = tmp_path_factory.mktemp("images")
    write_torches(made / "torch")
    settings = made / "pip.conf"
    settings.write_text(pip_settings() + f"find-links = {TORCH_FOLDER}/cuda\n")
    mounts = {settings: "/etc/pip.conf", made / "torch": TORCH_FOLDER}
    certificates = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
    if Path(certificates).exists():
        mounts[Path(certificates)] = certificates
    folder = cache_root() / "images"
    with exclusively(cache_root() / "images.lock", seconds=MOST_SECONDS, what="another run to end its builds"):
        found = Engine(folder=folder, mounts=mounts)
        yield found
        found.buildah("rmi", "--prune")  # what the stages before the last left


@pytest.fixture(scope="session")
def python_image(engine: Engine) -> str:
    """Stands for python:3.12-slim."""
    return python_base(engine, platform.freedesktop_os_release()["VERSION_CODENAME"])


@pytest.fixture(scope="session")
def rocm_image(engine: Engine, python_image: str) -> Iterator[str]:
    """Stands for rocm/pytorch."""
    yield rocm_base(engine, python_image)
    engine.remove("localhost/proa-check-rocm:base")
