"""Whole numbers of extended resources, such as amd.com/gpu: the only quantities that the operator counts."""

from __future__ import annotations

from collections.abc import Mapping

_SUFFIXES = {"k": 1000, "M": 1000**2, "Ki": 1024, "Mi": 1024**2}


def extended(amounts: Mapping[str, str] | None) -> dict[str, int]:
    """Those of a resource list. Extended resources have a domain in their name and are whole numbers."""
    found = amounts or {}
    return {name: whole(text) for name, text in found.items() if "/" in name and not name.startswith("kubernetes.io/")}


def whole(text: str | int) -> int:
    """A quantity without a fraction; ValueError for another one."""
    words = str(text)
    for suffix, factor in _SUFFIXES.items():
        if words.endswith(suffix):
            return int(words.removesuffix(suffix)) * factor
    return int(words)
