"""What a running bed makes on this machine, noted so that anyone can undo it after a crash (see undo.py).

A run folder holds `journal`, one line per thing: `KIND WORD ...`. Things without a pid are noted before they are made.
"""

from __future__ import annotations

from pathlib import Path

from testbed.processes import Identity

JOURNAL, OWNER = "journal", "owner"


def claim(run: Path, owner: Identity | None) -> None:
    """Make the folder `run`; a bed without an owner outlives the process that made it, until `testbed.down`."""
    run.mkdir(parents=True)
    (run / OWNER).write_text(f"{owner.pid} {owner.born}" if owner else "")


def owner_of(run: Path) -> Identity | None:
    """The process that `run` belongs to, if any."""
    words = (run / OWNER).read_text().split() if (run / OWNER).exists() else []
    return Identity(pid=int(words[0]), born=int(words[1])) if words else None


def note(run: Path, kind: str, *words: object) -> None:
    """Append one line to the journal of `run`."""
    with (run / JOURNAL).open("a") as journal:
        journal.write(" ".join([kind, *map(str, words)]) + "\n")


def noted(run: Path) -> list[list[str]]:
    """The journal's lines as words, oldest first."""
    journal = run / JOURNAL
    return [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []
