"""The decode side of a hand-off: pulls leased blocks into the local pool, verifies them, and commits.

One fetch: Hello (once per holder and epoch), Reserve, move in threads, verify each block, Commit. The blocks may be
used only after it returned. Whatever goes wrong ends in a typed error, with the lease aborted and no write under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from proa_proto.v1 import kv_control_pb2 as pb

from proa_workers.core.lease import Reader
from proa_workers.errors import StaleTransfer, TransferFailed, WorkerError
from proa_workers.kv.connect import OpenTransport, TransportChoice, connect, open_transport, probe_transport
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.layout import from_runs
from proa_workers.kv.memory import KvMemory
from proa_workers.kv.move import run_move
from proa_workers.kv.peer import RPC_SECONDS, PeerLink
from proa_workers.kv.peers import Peers
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.transport import Piece, pair_runs, to_chunks, to_streams
from proa_workers.kv.wire import peer_message, run_values, transfer_message

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.05  # before the second attempt; doubles
RESERVE_SECONDS = 5.0  # longer than other calls, since it waits for checksums
COMMIT_SECONDS = 3.0  # with repetitions
ABORT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """`num_runs`: pieces that were consecutive on both sides; `seconds` includes Reserve and Commit."""

    num_bytes: int
    seconds: float
    transport: str
    num_runs: int


class KvReader:
    """Used from one event loop; moves run in threads of its own. `epoch` must grow at each restart of the engine."""

    def __init__(
        self,
        memory: KvMemory,
        *,
        engine_id: str,
        epoch: int,
        transport: TransportChoice = "auto",
        fetch_seconds: float = 30.0,
        num_attempts: int = 3,
        num_threads: int = 8,
        open_transport: OpenTransport = open_transport,
    ) -> None:
        self.identity = Reader(engine_id, epoch)
        self.num_retries = 0
        self.outcomes: Counter[str] = Counter()  # "ok" or the error's class name
        self._memory = memory
        self._choice = transport
        self._fetch_seconds = fetch_seconds
        self._num_attempts = num_attempts
        self._open_transport = open_transport
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="kv-move")
        self.peers = Peers(self._connect)
        self._background: set[asyncio.Task[None]] = set()

    async def fetch(self, params: HandOff, block_ids: Sequence[int], first_block: int) -> FetchReport:
        """Fill local `block_ids` with the holder's blocks `first_block`..; earlier ones are cached here.

        When cancelled it ends only after the last write. Raises TransferFailed (unreachable, corrupt or late),
        StaleTransfer, UnknownTransfer, IncompatiblePeer: each time the prompt has to be recomputed or sent elsewhere.
        """
        num_blocks = -(-params.num_tokens // self._memory.layout.block_tokens)
        if not 0 <= first_block <= num_blocks or len(block_ids) != num_blocks - first_block:
            raise ValueError(f"{num_blocks} blocks from {first_block} do not fit into {len(block_ids)} local ones")
        try:
            report = await self._fetch(params, block_ids, first_block)
        except WorkerError as error:
            self.outcomes[type(error).__name__] += 1
            await self._abort(params, str(error))
            raise
        except asyncio.CancelledError:
            self.outcomes["Cancelled"] += 1
            self._spawn(self._abort(params, "cancelled"))
            raise
        self.outcomes["ok"] += 1
        return report

    async def release(self, params: HandOff) -> None:
        """Tell the holder that its blocks are not needed; a lost message only delays their reuse."""
        request = pb.ReleaseRequest(transfer=transfer_message(params.transfer), reader=peer_message(self.identity))
        try:
            async with self.peers.link(params.control, params.holder) as link:
                await link.call(link.stub.Release, request)
        except WorkerError as error:
            log.info("release not delivered", extra={"transfer": params.transfer_id, "reason": str(error)})

    async def probe(self, address: str) -> tuple[str, int, float]:
        """Read the probe block of the holder at `address`: (transport, bytes, seconds). Raises as `fetch`."""
        link = await self._connect(address)
        try:
            seconds = await probe_transport(link.transport, self._memory.layout.block_bytes)
        finally:
            await link.close()
        return link.transport.name, self._memory.layout.block_bytes, seconds

    async def close(self) -> None:
        """Deliver aborts that are under way and close every link; no fetch may be running."""
        if self._background:
            await asyncio.wait(self._background, timeout=2 * ABORT_SECONDS)
        await self.peers.close()
        self._executor.shutdown(wait=True)

    async def _fetch(self, params: HandOff, block_ids: Sequence[int], first_block: int) -> FetchReport:
        start = time.monotonic()
        deadline = start + self._fetch_seconds
        for attempt in range(self._num_attempts):
            try:
                async with self.peers.link(params.control, params.holder) as link:
                    pieces = await self._pull(link, params, block_ids, first_block, deadline)
                    return self._report(link, pieces, time.monotonic() - start)
            except TransferFailed as error:
                pause = BACKOFF_SECONDS * 2**attempt
                if attempt == self._num_attempts - 1 or time.monotonic() + pause >= deadline:
                    raise
                log.warning("fetch failed, trying again", extra={"transfer": params.transfer_id, "reason": str(error)})
            self.num_retries += 1
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _report(self, link: PeerLink, pieces: Sequence[Piece], seconds: float) -> FetchReport:
        num_bytes = sum(piece.source.num_blocks for piece in pieces) * self._memory.layout.block_bytes
        return FetchReport(num_bytes=num_bytes, seconds=seconds, transport=link.transport.name, num_runs=len(pieces))

    async def _pull(
        self, link: PeerLink, params: HandOff, block_ids: Sequence[int], first_block: int, deadline: float
    ) -> Sequence[Piece]:
        """One attempt: reserve, move, verify, commit."""
        transfer, reader = transfer_message(params.transfer), peer_message(self.identity)
        request = pb.ReserveRequest(transfer=transfer, reader=reader)
        lease = await link.call(link.stub.Reserve, request, min(RESERVE_SECONDS, deadline - time.monotonic()))
        sources = from_runs(run_values(lease.runs))
        if lease.num_tokens != params.num_tokens or len(sources) - first_block != len(block_ids):
            raise StaleTransfer(f"holder {link.address} leases {lease.num_tokens} tokens, not {params.num_tokens}")
        if len(lease.block_crc32c) != len(sources):
            raise TransferFailed(
                f"holder {link.address} sent {len(lease.block_crc32c)} checksums of {len(sources)} blocks"
            )
        pieces = pair_runs(sources[first_block:], block_ids)
        chunks = to_chunks(self._memory, pieces, lease.block_crc32c[first_block:])
        stop = StopSignal(deadline)
        with link.renewing(params.transfer, stop, lease.lease_ms / 1000):
            streams = to_streams(chunks, link.transport.num_streams)
            await run_move(self._executor, link.transport, params.transfer, streams, stop)
        commit = pb.CommitRequest(transfer=transfer, reader=reader)
        await self._commit(link, commit, deadline)
        return pieces

    async def _commit(self, link: PeerLink, request: pb.CommitRequest, deadline: float) -> None:
        """Commit, again while the answer is lost: the holder answers a repeated one as it did the first."""
        deadline = min(deadline, time.monotonic() + COMMIT_SECONDS)
        pause = BACKOFF_SECONDS
        while True:
            try:
                await link.call(link.stub.Commit, request, min(RPC_SECONDS, deadline - time.monotonic()))
                return
            except TransferFailed:
                if time.monotonic() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    async def _connect(self, address: str) -> PeerLink:
        return await connect(
            address,
            reader=self.identity,
            layout=self._memory.layout,
            choice=self._choice,
            open_transport=self._open_transport,
        )

    async def _abort(self, params: HandOff, reason: str) -> None:
        """Tell the holder that reading has stopped; undelivered, it waits for the lease and its grace to pass."""
        request = pb.KvAbortRequest(
            transfer=transfer_message(params.transfer), reader=peer_message(self.identity), reason=reason
        )
        try:
            async with self.peers.existing(params.control) as link:
                if link:
                    await link.call(link.stub.Abort, request, ABORT_SECONDS)
        except WorkerError as error:
            log.info("abort not delivered", extra={"transfer": params.transfer_id, "reason": str(error)})

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
