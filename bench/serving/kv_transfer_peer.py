"""The other process of kv_transfer.py: a holder that offers what it is asked for, or a plain sender.

python -m bench.serving.kv_transfer_peer hold        each line `MEGABYTES IS_FRAGMENTED` is answered with a hand-off
python -m bench.serving.kv_transfer_peer send PORT   connect, and for each byte that arrives send 256 MB
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys

import grpc.aio
from proa_proto.v1 import kv_control_pb2_grpc as pb_grpc
from proa_workers.kv.holder import KvHolder
from proa_workers.kv.layout import KvLayout
from proa_workers.kv.memory import HostKvMemory
from proa_workers.serving.interceptor import ErrorInterceptor
from proa_workers.serving.kv_control import KvControl

LAYOUT = KvLayout(model="bench", kind="mla", dtype="uint8", block_tokens=16, block_shape=(128 << 10,))
LARGEST_BYTES = 256 << 20
NUM_BLOCKS = 2 * LARGEST_BYTES // LAYOUT.block_bytes
WAIT_SECONDS = 60.0


def blocks_of(megabytes: int, is_fragmented: bool, seed: int) -> list[int]:
    """Block ids of one transfer: one run, or blocks of which no two are consecutive, in random order."""
    count = (megabytes << 20) // LAYOUT.block_bytes
    if not is_fragmented:
        return list(range(count))
    return random.Random(seed).sample(range(0, NUM_BLOCKS, 2), count)


async def hold() -> None:
    """Offer blocks of the size that each line of stdin asks for, until stdin ends."""
    pool = HostKvMemory(LAYOUT, NUM_BLOCKS)
    pool.buffer[: LAYOUT.block_bytes * NUM_BLOCKS] = random.randbytes(LAYOUT.block_bytes) * NUM_BLOCKS
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    port = server.add_insecure_port("127.0.0.1:0")
    holder = KvHolder(
        pool, engine_id="p", epoch=1, control_address=f"127.0.0.1:{port}", lease_seconds=30, unpin=lambda blocks: None
    )
    holder.serve_tcp("127.0.0.1")
    pb_grpc.add_KvControlServicer_to_server(KvControl(holder), server)
    await server.start()
    while line := await asyncio.to_thread(sys.stdin.readline):
        megabytes, is_fragmented = map(int, line.split())
        checked = holder.bytes_checked + (megabytes << 20)
        blocks = blocks_of(megabytes, bool(is_fragmented), seed=1)
        params = holder.offer(blocks, len(blocks) * LAYOUT.block_tokens)
        async with asyncio.timeout(WAIT_SECONDS):
            while holder.bytes_checked < checked:
                await asyncio.sleep(0.001)
        print(json.dumps(params), flush=True)
    await server.stop(0)
    holder.close()
    pool.close()


def send(port: int) -> None:
    content = bytes(LARGEST_BYTES)
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as sock:
        while sock.recv(1):
            sock.sendall(content)


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        asyncio.run(hold())
    else:
        send(int(sys.argv[2]))
