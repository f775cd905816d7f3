"""Compute and memory partitions of AMD GPUs: from sysfs, else from amd-smi or rocm-smi."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from proa_operator.doctor.finding import Finding, fail, ok, skip, warn
from proa_operator.doctor.machine import Machine

CHECK = "GPU partition"
AMD = "0x1002"
_TOOLS = (
    ("amd-smi", "static", "--partition", "--json"),
    ("rocm-smi", "--showcomputepartition", "--showmemorypartition", "--json"),
)
_COMPUTE = ("compute_partition", "accelerator_partition")
_MEMORY = ("memory_partition",)
_UNKNOWN = ("", "n/a", "none", "unknown")


def amd_cards(machine: Machine) -> list[str]:
    """Folders of the physical GPUs: in CPX mode the other partitions are DRM cards without a PCI device's files."""
    folders = [path.removesuffix("/vendor") for path in machine.find("/sys/class/drm/card*/device/vendor")]
    return [folder for folder in folders if machine.text(f"{folder}/vendor") == AMD]


def partitions(machine: Machine) -> Finding:
    """All GPUs of a node must be cut alike: the device plugin offers one resource for all of them."""
    cards = amd_cards(machine)
    if not cards:
        return skip(CHECK, "no AMD GPU")
    modes = _from_sysfs(machine, cards) or _from_tools(machine)
    if not modes:
        return ok(CHECK, f"{len(cards)} GPUs, none of which can be partitioned")
    counts = Counter(modes)
    found = ", ".join(f"{number} x {mode}" for mode, number in sorted(counts.items()))
    if len(counts) > 1:
        fix = "give all GPUs of the node one mode: amd-smi set --compute-partition SPX (no process may use them)"
        return fail(CHECK, found, fix)
    if not next(iter(counts)).startswith("SPX"):
        return warn(
            CHECK, found, "set accelerator.partition to this mode in manifests for this node, or go back to SPX"
        )
    return ok(CHECK, found)


def _from_sysfs(machine: Machine, cards: list[str]) -> list[str]:
    modes = []
    for card in cards:
        compute = machine.text(f"{card}/current_compute_partition") or ""
        memory = machine.text(f"{card}/current_memory_partition") or ""
        if compute.lower() not in _UNKNOWN:
            modes.append(_mode(compute, memory))
    return modes


def _from_tools(machine: Machine) -> list[str]:
    """The first tool that is installed and answers."""
    for argv in _TOOLS:
        try:
            answer = json.loads(machine.run(argv) or "null")
        except ValueError:
            continue
        compute = [text for text in _values(answer, _COMPUTE) if text.lower() not in _UNKNOWN]
        memory = list(_values(answer, _MEMORY))
        if compute:
            padded = memory if len(memory) == len(compute) else [""] * len(compute)
            return [_mode(*pair) for pair in zip(compute, padded, strict=True)]
    return []


def _values(answer: Any, wanted: tuple[str, ...]) -> Iterator[str]:
    """Texts under the wanted keys at any depth: the two tools, and their versions, nest them differently."""
    if isinstance(answer, list):
        for item in answer:
            yield from _values(item, wanted)
    elif isinstance(answer, dict):
        for key, item in answer.items():
            if key.lower().replace(" ", "_") in wanted and isinstance(item, str):
                yield item
            else:
                yield from _values(item, wanted)


def _mode(compute: str, memory: str) -> str:
    return compute if memory.lower() in _UNKNOWN else f"{compute}/{memory}"
