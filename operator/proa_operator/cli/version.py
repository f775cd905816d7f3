"""`proa version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

import typer

_PARTS = ("proa", "smg", "torch", "vllm")


def version() -> None:
    """Print the versions of proa and of the parts that serve."""
    for part in _PARTS:
        typer.echo(f"{part:<8} {_version_of(part)}")
    typer.echo(f"{'python':<8} {platform.python_version()}")


def _version_of(part: str) -> str:
    try:
        return installed_version(part)
    except PackageNotFoundError:
        return "not installed"
