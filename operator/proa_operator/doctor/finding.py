"""The outcome of one check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is, from good to bad; `skip` says that there was nothing to check."""

    SKIP = "skip"
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    check: str
    """What was looked at."""
    level: Level
    found: str
    """What is there."""
    fix: str = ""
    """What to do; empty when nothing is to be done."""


def ok(check: str, found: str) -> Finding:
    """As it should be."""
    return Finding(check=check, level=Level.OK, found=found)


def skip(check: str, found: str) -> Finding:
    """Nothing to check here."""
    return Finding(check=check, level=Level.SKIP, found=found)


def warn(check: str, found: str, fix: str) -> Finding:
    """Works, but slower, or not for everything."""
    return Finding(check=check, level=Level.WARN, found=found, fix=fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """Does not work."""
    return Finding(check=check, level=Level.FAIL, found=found, fix=fix)


def has_failed(findings: Iterable[Finding]) -> bool:
    """At least one check did."""
    return any(finding.level is Level.FAIL for finding in findings)
