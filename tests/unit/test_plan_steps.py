"""Rollouts step by step, against the steps that are written down.

    python -m tests.unit.test_plan_steps --rewrite      writes today's steps into the file: read the diff

A line of the file is the number of prefill:decode groups of each revision that are routed and, after the slash, that
exist; there is a line for each change. `A->B->A` changes the spec back when half of the groups are new.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from proa_operator.names import Role
from proa_operator.plan.actions import Action

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import World, is_settled

FILE = Path(__file__).resolve().parent.parent / "testdata" / "plan" / "rollouts.txt"
MODELS = {"A": "bundled://one", "B": "bundled://two", "C": "bundled://three"}


def cases(text: str) -> Iterator[tuple[str, list[str]]]:
    """(heading, lines) of each case."""
    for block in text.strip().split("\n\n"):
        heading, *lines = block.splitlines()
        yield heading, lines


def steps(heading: str) -> list[str]:
    """Run the case: `P:D surge S unavailable U A->B`."""
    sizes, _, surge, _, unavailable, models = heading.split()
    prefill, decode = map(int, sizes.split(":"))
    rollout = {"maxSurgeGroups": int(surge), "maxUnavailableGroups": int(unavailable)}
    first, *others = [
        service(prefill=prefill, decode=decode, model=MODELS[letter], rollout=rollout) for letter in models.split("->")
    ]
    world = World(first, watchers=[Invariants()])
    assert world.run(600, until=lambda: is_settled(world))
    lines: list[str] = []
    world.watchers.append(lambda world, action: _record(world, action, lines))
    for number, wanted in enumerate(others, start=1):
        world.change(wanted)
        half = number < len(others)
        assert world.run(3000, until=lambda half=half: _is_half(world) if half else is_settled(world))  # type: ignore[misc]
    world.run(60)
    assert not world.plan().actions
    return lines


def _is_half(world: World) -> bool:
    """Half of all groups that serve are of the newest revision."""
    newest = max(world.revisions.values(), key=lambda known: known.number).name
    serving = [owner for owner in world.sets.values() if owner.has_served and owner.memo.drain is None]
    return 2 * sum(owner.revision == newest for owner in serving) >= len(serving)


def _record(world: World, action: Action | None, lines: list[str]) -> None:
    letters = {known.name: _letter(known.spec.model.uri) for known in world.revisions.values()}
    parts = []
    for name, letter in sorted(letters.items(), key=lambda item: item[1]):
        exist = [owner for owner in world.sets.values() if owner.revision == name and not owner.is_deleting]
        routed = [
            owner for owner in exist if all(pod.is_routable for pod in world.pods_of(owner)) and world.pods_of(owner)
        ]
        if exist:
            parts.append(f"{letter} {_pair(world, routed)}/{_pair(world, exist)}")
    line = "  ".join(parts)
    if not lines or lines[-1] != line:
        lines.append(line)


def _pair(world: World, owners: list) -> str:  # type: ignore[type-arg]
    return ":".join(str(sum(owner.role is role for owner in owners)) for role in (Role.PREFILL, Role.DECODE))


def _letter(uri: str) -> str:
    return next(letter for letter, model in MODELS.items() if model == uri)


CASES = list(cases(FILE.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("heading", "lines"), CASES, ids=[heading for heading, _ in CASES])
def test_steps(heading: str, lines: list[str]) -> None:
    assert steps(heading) == lines


def rewrite() -> None:
    blocks = ["\n".join([heading, *steps(heading)]) for heading, _ in CASES]
    FILE.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


if __name__ == "__main__" and "--rewrite" in sys.argv:
    rewrite()
