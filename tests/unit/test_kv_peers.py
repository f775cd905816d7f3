"""Links to holders: what many fetches at once see of one that does not answer."""

from __future__ import annotations

import asyncio

import pytest
from proa_workers.core.lease import Reader
from proa_workers.errors import TransferFailed
from proa_workers.kv.peer import PeerLink
from proa_workers.kv.peers import Peers

HOLDER = Reader("p", 1)


async def test_fetches_that_wait_for_a_silent_holder_fail_together_and_a_later_one_tries_again() -> None:
    """One by one they would wait for as many time limits as there are fetches."""
    num_tries = 0
    answer = asyncio.Event()

    async def connect(address: str) -> PeerLink:
        nonlocal num_tries
        num_tries += 1
        await answer.wait()
        raise TransferFailed(f"holder {address}: Deadline Exceeded")

    async def use(peers: Peers) -> None:
        async with peers.link("a:1", HOLDER):
            raise AssertionError("there is no link")

    peers = Peers(connect)
    fetches = [asyncio.create_task(use(peers)) for _ in range(20)]
    await asyncio.sleep(0)
    answer.set()
    async with asyncio.timeout(60):
        results = await asyncio.gather(*fetches, return_exceptions=True)
    assert {(type(error), str(error)) for error in results} == {(TransferFailed, "holder a:1: Deadline Exceeded")}
    assert num_tries == 1
    with pytest.raises(TransferFailed):
        await use(peers)
    assert num_tries == 2
