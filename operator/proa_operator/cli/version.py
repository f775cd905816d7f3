"""`proa version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

from proa_operator.cli.output import Output, show
from proa_operator.cli.where import Format

_PARTS = ("proa", "smg", "torch", "vllm")


def version(output: Format = Output.TABLE) -> None:
    """Print the versions of proa and of the parts that serve."""
    found = {part: _version_of(part) for part in _PARTS} | {"python": platform.python_version()}
    show(found, output, lambda: "\n".join(f"{part:<8} {number}" for part, number in found.items()))


def _version_of(part: str) -> str:
    try:
        return installed_version(part)
    except PackageNotFoundError:
        return "not installed"
