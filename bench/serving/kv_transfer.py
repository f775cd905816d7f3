"""Speed of KV fetches over shm and tcp between two processes of one host, beside what the host itself can do.

    python -m bench.serving.kv_transfer [--rounds 9] [--json bench/serving/kv_transfer.json]

One fetch is Reserve, move, CRC32C of every block, Commit; the holder has its checksums ready, as when the gateway's
answer took a few milliseconds. Blocks are 128 KiB; fragmented means that no two blocks are consecutive on either side.
Also measured: a numpy copy inside a warm pool (memcpy), CRC32C of 64 MB, plain sendall/recv_into of 256 MB.
Everything is measured once a round, round by round, so that other load on the machine meets all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from proa_workers.kv.checksum import block_crcs
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.memory import HostKvMemory
from proa_workers.kv.reader import KvReader

from bench.serving.kv_transfer_peer import LARGEST_BYTES, LAYOUT, NUM_BLOCKS, WAIT_SECONDS, blocks_of
from bench.serving.provenance import provenance

MEGABYTES = (1, 4, 16, 64, 256)


@dataclass(kw_only=True)
class Row:
    """`measure` returns the seconds that moving `megabytes` took once."""

    what: str
    megabytes: int
    measure: Callable[[], float]
    is_fragmented: bool | None = None
    seconds: list[float] = field(default_factory=list)

    def result(self) -> dict[str, object]:
        """GB/s are 1e9 bytes of the median run."""
        median = statistics.median(self.seconds)
        shape = {} if self.is_fragmented is None else {"fragmented": self.is_fragmented}
        return {
            "what": self.what,
            "megabytes": self.megabytes,
            **shape,
            "gb_per_s": round((self.megabytes << 20) / median / 1e9, 3),
            "median_ms": round(median * 1e3, 3),
            "best_ms": round(min(self.seconds) * 1e3, 3),
            "worst_ms": round(max(self.seconds) * 1e3, 3),
        }


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def peer(*args: str) -> Iterator[Callable[[str], str]]:
    """Start kv_transfer_peer; yields a function that writes a line to it and returns its answer."""
    command = [sys.executable, "-m", "bench.serving.kv_transfer_peer", *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin
        assert stdout

        def ask(line: str) -> str:
            stdin.write(f"{line}\n")
            stdin.flush()
            return stdout.readline()

        yield ask
        stdin.close()
        process.wait(WAIT_SECONDS)


def host_rows(pool: HostKvMemory) -> list[Row]:
    """What this host could do at best: a copy within the pool, and the checksum of its blocks."""
    array = np.frombuffer(pool.buffer, np.uint8)
    half = len(array) // 2
    view = memoryview(pool.buffer)[: 64 << 20]

    def copy(size: int) -> Callable[[], float]:
        return lambda: timed(lambda: np.copyto(array[half : half + size], array[:size]))

    rows = [Row(what="memcpy", megabytes=size, measure=copy(size << 20)) for size in MEGABYTES]
    checksum = Row(what="crc32c", megabytes=64, measure=lambda: timed(lambda: block_crcs(view, LAYOUT.block_bytes)))
    return [*rows, checksum]


@contextmanager
def loopback_row() -> Iterator[Row]:
    """Bytes over a bare TCP connection from another process: the bound of transport tcp."""
    target = memoryview(bytearray(LARGEST_BYTES))
    with socket.create_server(("127.0.0.1", 0)) as listener, peer("send", str(listener.getsockname()[1])):
        listener.settimeout(WAIT_SECONDS)
        sock, _ = listener.accept()
        sock.settimeout(WAIT_SECONDS)

        def receive() -> None:
            sock.sendall(b"x")
            done = 0
            while done < LARGEST_BYTES:
                done += sock.recv_into(target[done:])

        with sock:
            yield Row(what="loopback", megabytes=LARGEST_BYTES >> 20, measure=lambda: timed(receive))


def fetch_rows(runner: asyncio.Runner, reader: KvReader, transport: str, ask: Callable[[str], str]) -> list[Row]:
    """Whole hand-offs of each size, with blocks in one piece and scattered; `ask` has the peer offer them."""

    def fetching(megabytes: int, is_fragmented: bool) -> Callable[[], float]:
        targets = blocks_of(megabytes, is_fragmented, seed=2)

        def fetch() -> float:
            params = HandOff.parse(ask(f"{megabytes} {int(is_fragmented)}"))
            return runner.run(reader.fetch(params, targets, 0)).seconds

        return fetch

    shapes = [(size, is_fragmented) for size in MEGABYTES for is_fragmented in (False, True)]
    return [
        Row(what=transport, megabytes=size, is_fragmented=is_fragmented, measure=fetching(size, is_fragmented))
        for size, is_fragmented in shapes
    ]


def measure(num_rounds: int) -> list[dict[str, object]]:
    """All rows, measured `num_rounds` times after a first round that touches pages and is not counted."""
    pool = HostKvMemory(LAYOUT, NUM_BLOCKS)
    with ExitStack() as stack:
        stack.callback(pool.close)
        runner = stack.enter_context(asyncio.Runner())
        ask = stack.enter_context(peer("hold"))
        rows = [*host_rows(pool), stack.enter_context(loopback_row())]
        for transport in ("shm", "tcp"):
            reader = runner.run(open_reader(pool, transport))
            stack.callback(close_reader, runner, reader)
            rows += fetch_rows(runner, reader, transport, ask)
        for round_idx in range(num_rounds + 1):
            for row in rows:
                seconds = row.measure()
                if round_idx:
                    row.seconds.append(seconds)
    return [row.result() for row in rows]


async def open_reader(pool: HostKvMemory, transport: str) -> KvReader:
    return KvReader(pool, engine_id=f"d-{transport}", epoch=1, transport=transport)  # type: ignore[arg-type]


def close_reader(runner: asyncio.Runner, reader: KvReader) -> None:
    runner.run(reader.close())


def main() -> None:
    """Print one line per transport and size, and write them with --json."""
    parser = argparse.ArgumentParser(description="Speed of KV fetches over shm and tcp on this host.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = measure(args.rounds)
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    if args.json:
        source = {**provenance(), "load_average": round(os.getloadavg()[0], 1)}
        args.json.write_text(json.dumps({"provenance": source, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
