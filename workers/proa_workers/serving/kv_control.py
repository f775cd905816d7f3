"""gRPC surface of a KvHolder: proa.v1.KvControl."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from proa_proto.v1 import kv_control_pb2 as pb
from proa_proto.v1 import kv_control_pb2_grpc as pb_grpc

from proa_workers.core.lease import Event, Lease
from proa_workers.errors import Saturated, StaleTransfer, UnknownTransfer
from proa_workers.kv.holder import KvHolder
from proa_workers.kv.layout import to_runs
from proa_workers.kv.shm import host_id
from proa_workers.kv.wire import peer_message, peer_value, run_messages, transfer_message, transfer_value

CHECKSUM_SECONDS = 4.0  # a Reserve waits at most this long for checksums; readers give it a little longer
MAX_UNREAD_COMPLETIONS = 1024


class KvControl(pb_grpc.KvControlServicer):
    """Register with `add_KvControlServicer_to_server`, behind the interceptor that turns errors into statuses."""

    def __init__(self, holder: KvHolder) -> None:
        self._holder = holder

    async def Hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
        """Where this holder's blocks are and how they are laid out; the reader checks the hash before it reads."""
        self._holder.see_peer(peer_value(request.reader))
        memory = self._holder.memory
        return pb.HelloReply(
            holder=peer_message(self._holder.identity),
            layout_hash=memory.layout.compat_hash(),
            block_bytes=memory.layout.block_bytes,
            num_blocks=memory.num_blocks,
            host_id=host_id(),
            shm_name=memory.shm_name or "",
            tcp_address=self._holder.tcp_address,
        )

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveReply:
        """Blocks of a finished prompt under a lease, with the CRC32C of each; raises as KvHolder.reserve does."""
        transfer = transfer_value(request.transfer)
        lease, crcs = await self._holder.reserve(transfer, peer_value(request.reader), CHECKSUM_SECONDS)
        return pb.ReserveReply(
            num_tokens=lease.num_tokens,
            runs=run_messages(to_runs(lease.block_ids)),
            block_crc32c=crcs,
            lease_ms=round(lease.lease_seconds * 1000),
        )

    async def Commit(self, request: pb.CommitRequest, context: Any) -> pb.CommitReply:
        self._holder.apply(transfer_value(request.transfer), Event.COMMIT, peer_value(request.reader))
        return pb.CommitReply()

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewReply:
        reply = pb.RenewReply()
        for transfer in request.transfers:
            try:
                self._holder.apply(transfer_value(transfer), Event.RENEW, peer_value(request.reader))
            except (StaleTransfer, UnknownTransfer):
                reply.lost_transfer_ids.append(transfer.transfer_id)
        return reply

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseReply:
        self._holder.apply(transfer_value(request.transfer), Event.RELEASE, peer_value(request.reader))
        return pb.ReleaseReply()

    async def Abort(self, request: pb.KvAbortRequest, context: Any) -> pb.KvAbortReply:
        self._holder.apply(transfer_value(request.transfer), Event.ABORT, peer_value(request.reader))
        return pb.KvAbortReply()

    async def Completions(self, request: pb.CompletionsRequest, context: Any) -> AsyncIterator[pb.Completion]:
        """Endings from the initial metadata on; a client that falls far behind is cut off (Saturated)."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Queue[Lease] = asyncio.Queue()

        def note(lease: Lease) -> None:
            if ended.qsize() <= MAX_UNREAD_COMPLETIONS:
                ended.put_nowait(lease)

        with self._holder.listening(lambda lease: loop.call_soon_threadsafe(note, lease)):
            await context.send_initial_metadata(())
            while ended.qsize() <= MAX_UNREAD_COMPLETIONS:
                lease = await ended.get()
                assert lease.outcome is not None
                outcome = pb.Completion.Outcome.Value(lease.outcome.name)
                yield pb.Completion(transfer=transfer_message(lease.transfer), outcome=outcome)
        raise Saturated(f"more than {MAX_UNREAD_COMPLETIONS} completions were left unread: subscribe again")
