"""Runs the streams of one move in threads, and ends only when no thread writes any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from proa_workers.core.lease import Transfer
from proa_workers.errors import TransferFailed, WorkerError
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.transport import Chunk, Transport


async def run_move(
    executor: ThreadPoolExecutor,
    transport: Transport,
    transfer: Transfer,
    streams: Sequence[Sequence[Chunk]],
    stop: StopSignal,
) -> None:
    """Read and verify all streams. Raises the first stream's error; when cancelled, after every thread has stopped."""
    jobs = [executor.submit(partial(read_stream, transport, transfer, chunks, stop)) for chunks in streams]
    settled = asyncio.gather(*map(asyncio.wrap_future, jobs), return_exceptions=True)
    is_cancelled = False
    while not settled.done():
        try:
            await asyncio.shield(settled)
        except asyncio.CancelledError:
            is_cancelled = True
            stop.stop(TransferFailed("the fetch was cancelled"))
            for job in jobs:
                job.cancel()
    if is_cancelled:
        raise asyncio.CancelledError
    if stop.cause:
        raise stop.cause
    for result in settled.result():
        if isinstance(result, BaseException):
            raise result


def read_stream(transport: Transport, transfer: Transfer, chunks: Sequence[Chunk], stop: StopSignal) -> None:
    """Read and verify `chunks`; a failure stops the other streams of the move."""
    try:
        for chunk in transport.read(transfer, chunks, stop):
            chunk.settle()
        stop.check()
    except WorkerError as error:
        stop.stop(error)
        raise
