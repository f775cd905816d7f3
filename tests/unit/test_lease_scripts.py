"""Scripts of commands against a LeaseTable with the log that they must give, in the manner of etcd raft's tests.

    python tests/unit/test_lease_scripts.py --rewrite      writes today's log into the files: read the diff

Commands: `at SECONDS`, `open ID BLOCKS TOKENS`, `EVENT ID [by READER@EPOCH] [generation=N] [epoch=N]`,
`hello READER@EPOCH`, `send ID BLOCKS by READER@EPOCH`, `sent ID`, `sweep`. Lease 10 s, unclaimed 4 s.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from proa_workers.core.lease import Event, Lease, Reader, Transfer
from proa_workers.errors import WorkerError
from proa_workers.kv.lease_table import LeaseTable

FOLDER = Path(__file__).resolve().parent.parent / "testdata" / "lease"


class Script:
    """State of one script run."""

    def __init__(self) -> None:
        self.table = LeaseTable(engine_id="p", epoch=7, lease_seconds=10, unclaimed_seconds=4)
        self.now = 0.0
        self.leases: dict[str, Lease] = {}
        self.sends: dict[str, Lease] = {}
        self.commands: dict[str, Callable[..., str]] = {
            "at": self.at,
            "open": self.open,
            "hello": self.hello,
            "send": self.send,
            "sent": self.sent,
            "sweep": self.sweep,
        }

    def run(self, line: str) -> list[str]:
        """Log of one command."""
        words = [word for word in line.split() if word != "by"]
        options = dict(word.split("=") for word in words if "=" in word)
        name, *args = (word for word in words if "=" not in word)
        try:
            log = [self.commands[name](*args) if name in self.commands else self.event(name, *args, **options)]
        except WorkerError as error:
            log = [f"{type(error).__name__}: {error}"]
        freed = self.table.take_freed()
        return log + [f"unpin {','.join(map(str, lease.block_ids))} ({lease.outcome})" for lease in freed]

    def at(self, seconds: str) -> str:
        self.now = float(seconds)
        return "ok"

    def open(self, name: str, blocks: str, tokens: str) -> str:
        self.leases[name] = self.table.open(name, numbers(blocks), int(tokens), self.now)
        return show(self.leases[name])

    def hello(self, reader: str) -> str:
        self.table.see_peer(peer(reader), self.now)
        return self.sweep()

    def send(self, name: str, blocks: str, reader: str) -> str:
        self.sends[name] = self.table.begin_send(self.leases[name].transfer, peer(reader), numbers(blocks), self.now)
        return show(self.sends[name])

    def sent(self, name: str) -> str:
        is_valid = self.table.unhold(self.sends.pop(name), self.now)
        return f"{'valid' if is_valid else 'STALE'}, {show(self.leases[name])}"

    def sweep(self) -> str:
        self.table.sweep(self.now)
        return "; ".join(show(lease) for lease in self.leases.values())

    def event(self, name: str, lease: str, reader: str = "", generation: str = "", epoch: str = "") -> str:
        known = self.leases.get(lease)
        transfer = known.transfer if known else Transfer("p", 7, lease, 1)
        transfer = transfer._replace(
            generation=int(generation or transfer.generation), epoch=int(epoch or transfer.epoch)
        )
        return show(self.table.apply(transfer, Event(name), self.now, peer(reader) if reader else None))


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def peer(text: str) -> Reader:
    engine_id, _, epoch = text.partition("@")
    return Reader(engine_id, int(epoch))


def show(lease: Lease) -> str:
    reader = f" for {lease.reader.engine_id}@{lease.reader.epoch}" if lease.reader else ""
    holds = f" held {lease.num_holds}x" if lease.num_holds else ""
    identity = f"{lease.transfer.transfer_id}/{lease.transfer.generation}"
    return f"{identity} {lease.state}{reader}{holds} until {lease.deadline:g}"


def replay(text: str) -> str:
    """`text` with each command's log written anew below its `----`; comments stay."""
    script = Script()
    sections = []
    for section in text.strip().split("\n\n"):
        lines = section.split("----")[0].strip().splitlines()
        command = lines[-1]
        if command.startswith("#"):
            sections.append(section.strip())
            continue
        sections.append("\n".join([*lines, "----", *script.run(command)]))
    return "\n\n".join(sections) + "\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    assert replay(path.read_text()) == path.read_text()


def test_a_wrong_log_is_noticed() -> None:
    wrong = "open a 1 16\n----\na/1 ready until 4\n"
    assert replay(wrong) == "open a 1 16\n----\na/1 reserved until 4\n"


if __name__ == "__main__" and sys.argv[1:] == ["--rewrite"]:
    for script_path in FOLDER.glob("*.txt"):
        script_path.write_text(replay(script_path.read_text()))
