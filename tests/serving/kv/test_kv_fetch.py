"""Fetches as they should go, over shm and tcp, host and device pools, and refusals with their reasons."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from proa_proto.v1 import kv_control_pb2 as pb
from proa_proto.v1 import kv_control_pb2_grpc as pb_grpc
from proa_workers.core.lease import Outcome, Reader
from proa_workers.errors import IncompatiblePeer, Saturated, StaleTransfer, TransferFailed, UnknownTransfer
from proa_workers.kv.layout import KvLayout
from proa_workers.kv.reader import KvReader
from proa_workers.serving import kv_control

MakePair = Callable[..., Awaitable[Any]]
TRANSPORTS = ["shm", "tcp"]
FRAGMENTED = [9, 4, 5, 6, 40, 39, 38, 12, 13, 20]


def num_runs(sources: list[int], targets: list[int]) -> int:
    pairs = list(zip(sources, targets, strict=True))
    return sum(pair != (prev[0] + 1, prev[1] + 1) for prev, pair in zip([(-9, -9), *pairs], pairs, strict=False))


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ([5], [7]),
        (list(range(50)), list(range(10, 60))),
        (FRAGMENTED, list(range(10))),
        (list(range(10)), FRAGMENTED),
        (FRAGMENTED, FRAGMENTED[::-1]),
        (random.Random(1).sample(range(64), 60), random.Random(2).sample(range(64), 60)),
    ],
    ids=["one", "contiguous", "gather", "scatter", "both", "shuffled"],
)
async def test_bytes_arrive(make_pair: MakePair, transport: str, sources: list[int], targets: list[int]) -> None:
    pair = await make_pair(transport)
    report = await pair.reader.fetch(pair.offer(sources), targets, 0)
    assert pair.is_copied(sources, targets)
    assert report.transport == transport
    assert report.num_runs == num_runs(sources, targets)
    assert report.num_bytes == len(sources) * pair.source.layout.block_bytes
    await pair.let_go(60)
    assert not pair.pins.blocks
    assert pair.holder.count_outcomes()[Outcome.CONSUMED] == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_cached_prefix_is_not_moved(make_pair: MakePair, transport: str) -> None:
    pair = await make_pair(transport)
    params = pair.offer([3, 4, 5, 6], num_tokens=50)
    report = await pair.reader.fetch(params, [0, 1], 2)
    assert report.num_bytes == 2 * pair.source.layout.block_bytes
    assert pair.is_copied([5, 6], [0, 1])
    if transport == "tcp":
        assert pair.holder.bytes_sent == report.num_bytes


async def test_device_pools_go_over_tcp(make_pair: MakePair, copying_memory: type) -> None:
    pair = await make_pair("auto", source_kind=copying_memory, target_kind=copying_memory)
    report = await pair.reader.fetch(pair.offer(FRAGMENTED), list(range(10)), 0)
    assert (report.transport, pair.is_copied(FRAGMENTED, list(range(10)))) == ("tcp", True)


async def test_host_pool_to_device_over_shm(make_pair: MakePair, copying_memory: type) -> None:
    pair = await make_pair("auto", target_kind=copying_memory)
    report = await pair.reader.fetch(pair.offer(FRAGMENTED), list(range(10)), 0)
    assert (report.transport, pair.is_copied(FRAGMENTED, list(range(10)))) == ("shm", True)


async def test_shm_that_cannot_work_is_an_error(make_pair: MakePair, copying_memory: type) -> None:
    pair = await make_pair("shm", source_kind=copying_memory)
    with pytest.raises(IncompatiblePeer, match="shm was asked for, but the pool of p is on a device"):
        await pair.reader.fetch(pair.offer([1]), [1], 0)


async def test_shm_of_another_host_is_an_error(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = await make_pair("shm")
    monkeypatch.setattr("proa_workers.kv.connect.host_id", lambda: "elsewhere/1")
    with pytest.raises(IncompatiblePeer, match=r"has another /dev/shm .* than this worker"):
        await pair.reader.fetch(pair.offer([1]), [1], 0)


async def test_auto_says_why_it_takes_tcp(make_pair: MakePair, caplog: pytest.LogCaptureFixture) -> None:
    pair = await make_pair("auto")
    pair.source.close()  # the file is gone, the pool still lives
    report = await pair.reader.fetch(pair.offer([1]), [1], 0)
    assert report.transport == "tcp"
    assert "cannot be mapped, using tcp" in caplog.text


async def test_other_layout_is_refused(make_pair: MakePair) -> None:
    other = KvLayout(model="m", kind="mla", dtype="bfloat16", block_tokens=16, block_shape=(5, 16, 64))
    pair = await make_pair(target_layout=other)
    with pytest.raises(IncompatiblePeer, match="same model, dtype and block size"):
        await pair.reader.fetch(pair.offer([1]), [1], 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_probe(make_pair: MakePair, transport: str) -> None:
    pair = await make_pair(transport)
    name, num_bytes, seconds = await pair.reader.probe(pair.holder.control_address)
    assert (name, num_bytes) == (transport, pair.source.layout.block_bytes)
    assert seconds > 0


async def test_nobody_listens(make_pair: MakePair) -> None:
    pair = await make_pair(num_attempts=2)
    params = pair.offer([1])
    await pair.server.stop(0)
    with pytest.raises(TransferFailed, match="holder 127"):
        await pair.reader.fetch(params, [1], 0)
    assert pair.reader.num_retries == 1


async def test_release_frees_at_once(make_pair: MakePair) -> None:
    pair = await make_pair()
    params = pair.offer([1, 2])
    await pair.reader.release(params)
    await pair.reader.release(params)
    assert await pair.holder.drained(60)
    assert pair.holder.count_outcomes()[Outcome.RELEASED] == 1
    with pytest.raises(UnknownTransfer, match="released"):
        await pair.reader.fetch(params, [1, 2], 0)


async def test_a_transfer_is_consumed_once(make_pair: MakePair) -> None:
    pair = await make_pair()
    params = pair.offer([1])
    await pair.reader.fetch(params, [1], 0)
    with pytest.raises(UnknownTransfer, match="consumed"):
        await pair.reader.fetch(params, [2], 0)
    assert pair.reader.outcomes == {"ok": 1, "UnknownTransfer": 1}


async def test_two_readers_cannot_share_a_lease(make_pair: MakePair) -> None:
    pair = await make_pair()
    params = pair.offer([1])
    await pair.holder.reserve(params.transfer, Reader("other", 1), 5)
    with pytest.raises(StaleTransfer, match="not claimed by d"):
        await pair.reader.fetch(params, [1], 0)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"epoch": 2}, StaleTransfer, "is now engine p epoch 1, not p epoch 2"),
        ({"generation": 7}, StaleTransfer, "is not generation 7"),
        ({"transfer_id": "zz"}, UnknownTransfer, "no lease for transfer zz"),
        ({"num_tokens": 15}, StaleTransfer, "leases 16 tokens, not 15"),
    ],
)
async def test_stale_params(make_pair: MakePair, change: dict[str, Any], error: type[Exception], reason: str) -> None:
    pair = await make_pair()
    with pytest.raises(error, match=reason):
        await pair.reader.fetch(replace(pair.offer([1]), **change), [1], 0)


async def test_wrong_number_of_blocks_is_the_callers_mistake(make_pair: MakePair) -> None:
    pair = await make_pair()
    with pytest.raises(ValueError, match="2 blocks from 1 do not fit into 2"):
        await pair.reader.fetch(pair.offer([1, 2]), [1, 2], 1)
    with pytest.raises(ValueError, match="17 tokens need 2 blocks"):
        pair.holder.offer([1], 17)


async def test_unclaimed_lease_expires_early(make_pair: MakePair) -> None:
    pair = await make_pair(lease_seconds=60.0)
    pair.offer([1, 2])
    assert await asyncio.wait_for(until_checked(pair), 60)
    pair.expire(9.9)
    assert pair.pins.blocks == {1, 2}
    pair.expire(0.1)
    assert (pair.pins.blocks, pair.holder.count_outcomes()[Outcome.UNCLAIMED]) == (set(), 1)


async def until_checked(pair: Any) -> bool:
    while pair.holder.bytes_checked < len(pair.pins.blocks) * pair.source.layout.block_bytes:
        await asyncio.sleep(0)
    return True


async def test_restarted_reader_frees_its_old_leases(make_pair: MakePair) -> None:
    pair = await make_pair()
    params = pair.offer([1])
    await pair.holder.reserve(params.transfer, Reader("d", 1), 5)
    reborn = KvReader(pair.target, engine_id="d", epoch=2, transport="shm")
    await reborn.fetch(pair.offer([2]), [2], 0)
    await reborn.close()
    await pair.let_go(60)
    assert (pair.pins.blocks, pair.holder.count_outcomes()[Outcome.PEER_RESTARTED]) == (set(), 1)
    with pytest.raises(StaleTransfer, match="replaced by epoch 2"):
        await pair.reader.fetch(pair.offer([3]), [3], 0)


async def test_many_fetches_at_once(make_pair: MakePair) -> None:
    pair = await make_pair("tcp")
    fetches = [(pair.offer([2 * i, 2 * i + 1]), [2 * i, 2 * i + 1]) for i in range(32)]
    await asyncio.gather(*(pair.reader.fetch(params, blocks, 0) for params, blocks in fetches))
    assert pair.is_copied(range(64), range(64))
    assert await pair.holder.drained(60)
    assert not any(lease.block_ids for lease in pair.holder._table._ended.values())  # thousands are remembered


async def test_completions_nobody_reads_are_bounded(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stops asking for more once the client's window is full, so the bound must hold while it waits."""
    monkeypatch.setattr(kv_control, "MAX_UNREAD_COMPLETIONS", 3)
    pair = await make_pair()
    control = kv_control.KvControl(pair.holder)
    stream = control.Completions(pb.CompletionsRequest(), SilentContext())
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    for block in range(20):
        await pair.reader.release(pair.offer([block]))
    await first
    assert stream.ag_frame.f_locals["ended"].qsize() <= 4
    with pytest.raises(Saturated, match="subscribe again"):
        await anext(stream)
    assert not pair.holder._listeners


class SilentContext:
    async def send_initial_metadata(self, metadata: object) -> None:
        pass


async def test_completions_stream(make_pair: MakePair) -> None:
    pair = await make_pair()
    async with grpc.aio.insecure_channel(pair.holder.control_address) as channel:
        stub: Any = pb_grpc.KvControlStub(channel)
        stream = stub.Completions(pb.CompletionsRequest(), timeout=60)
        await stream.initial_metadata()
        params = [pair.offer([1]), pair.offer([2])]
        await pair.reader.fetch(params[0], [1], 0)
        await pair.reader.release(params[1])
        ended = [await stream.read(), await stream.read()]
        stream.cancel()
    assert [(c.transfer.transfer_id, pb.Completion.Outcome.Name(c.outcome)) for c in ended] == [
        (params[0].transfer_id, "CONSUMED"),
        (params[1].transfer_id, "RELEASED"),
    ]
