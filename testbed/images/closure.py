"""The installed distributions that a list of requirements needs, found in this interpreter: no index, no network."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from testbed.errors import BedError
from testbed.store import CHECKOUT


def extra_requirements(extra: str, without: Iterable[str] = ()) -> list[Requirement]:
    """What `proa[extra]` requires by pyproject.toml, apart from the named packages."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"][extra]]
    return [need for need in map(Requirement, lines) if canonicalize_name(need.name) not in set(without)]


def closure(requirements: Iterable[Requirement]) -> dict[str, Distribution]:
    """Installed distributions by canonical name, with all that they require; raises BedError when one is missing."""
    found: dict[str, Distribution] = {}
    visited: set[tuple[str, str]] = set()
    waiting = [(need, "") for need in requirements]
    while waiting:
        need, extra = waiting.pop()
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(need.name)
        found[name] = _installed(name)
        for wanted in ({"", *need.extras}) - {e for n, e in visited if n == name}:
            visited.add((name, wanted))
            waiting += [(Requirement(line), wanted) for line in found[name].requires or []]
    return found


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise BedError(f"an image of the test bed needs {name}, which is not installed: run `make install`") from None
