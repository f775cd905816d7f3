"""One side of a hand-off as a process that tests stop and kill.

    python child.py holder NUM_BLOCKS                  prints the hand-off of all blocks, serves until killed
    python child.py reader TRANSPORT < JSON lines      fetches each, says `moving` after its first chunk and goes on at
                                                       the line `go`; prints `equal`, `CORRUPT` or the error's class

Block i of a holder is filled with byte i % 251.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence

import grpc.aio
from proa_proto.v1 import kv_control_pb2 as pb
from proa_proto.v1 import kv_control_pb2_grpc as pb_grpc
from proa_workers.core.lease import Reader, Transfer
from proa_workers.errors import WorkerError
from proa_workers.kv.connect import TransportChoice, open_transport
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.holder import KvHolder
from proa_workers.kv.layout import BlockRun, KvLayout
from proa_workers.kv.memory import HostKvMemory
from proa_workers.kv.reader import KvReader
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.transport import Chunk, Transport
from proa_workers.serving.interceptor import ErrorInterceptor
from proa_workers.serving.kv_control import KvControl

LAYOUT = KvLayout(model="chaos", kind="mla", dtype="uint8", block_tokens=16, block_shape=(1 << 20,))
NUM_BLOCKS = 64  # more than the socket buffers of one connection hold


class PausingTransport:
    """Stops each move after its first chunk until standard input says `go`."""

    def __init__(self, inner: Transport) -> None:
        self.inner, self.name, self.num_streams = inner, inner.name, 1

    def read(self, transfer: Transfer, chunks: Sequence[Chunk], stop: StopSignal) -> Iterator[Chunk]:
        for position, chunk in enumerate(self.inner.read(transfer, chunks, stop)):
            if position == 0:
                print("moving", flush=True)
                assert sys.stdin.readline() == "go\n"
            yield chunk

    def read_probe(self, stop: StopSignal) -> bytes:
        return self.inner.read_probe(stop)

    def close(self) -> None:
        self.inner.close()


def open_pausing(hello: pb.HelloReply, choice: TransportChoice, reader: Reader) -> Transport:
    return PausingTransport(open_transport(hello, choice, reader))


def fill(pool: HostKvMemory) -> None:
    for block in range(pool.num_blocks):
        pool.write_run(BlockRun(block, 1), memoryview(bytes([block % 251]) * LAYOUT.block_bytes))


def is_equal(pool: HostKvMemory, num_blocks: int) -> bool:
    return all(
        bytes(pool.read_run(BlockRun(block, 1))) == bytes([block % 251]) * LAYOUT.block_bytes
        for block in range(num_blocks)
    )


async def hold(num_blocks: int) -> None:
    pool = HostKvMemory(LAYOUT, NUM_BLOCKS)
    fill(pool)
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    port = server.add_insecure_port("127.0.0.1:0")
    holder = KvHolder(
        pool,
        engine_id="holder",
        epoch=time.time_ns(),
        control_address=f"127.0.0.1:{port}",
        lease_seconds=5,
        unpin=lambda blocks: None,
    )
    holder.serve_tcp("127.0.0.1")
    pb_grpc.add_KvControlServicer_to_server(KvControl(holder), server)
    await server.start()
    print(json.dumps(holder.offer(range(num_blocks), num_blocks * LAYOUT.block_tokens)), flush=True)
    await server.wait_for_termination()


async def read(transport: TransportChoice) -> None:
    pool = HostKvMemory(LAYOUT, NUM_BLOCKS)
    reader = KvReader(
        pool,
        engine_id="reader",
        epoch=time.time_ns(),
        transport=transport,
        open_transport=open_pausing,
        fetch_seconds=20,
        num_attempts=1,
    )
    while line := await asyncio.to_thread(sys.stdin.readline):
        params = HandOff.parse(line)
        num_blocks = params.num_tokens // LAYOUT.block_tokens
        try:
            await reader.fetch(params, range(num_blocks), 0)
        except WorkerError as error:
            print(type(error).__name__, error, flush=True)
        else:
            print("equal" if is_equal(pool, num_blocks) else "CORRUPT", flush=True)
    await reader.close()
    pool.close()


if __name__ == "__main__":
    asyncio.run(hold(int(sys.argv[2])) if sys.argv[1] == "holder" else read(sys.argv[2]))  # type: ignore[arg-type]
