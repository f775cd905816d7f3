"""One holder as a reader sees it: control channel, transport, and renewals of what is being fetched from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
import grpc.aio
from proa_proto.v1 import kv_control_pb2 as pb
from proa_proto.v1 import kv_control_pb2_grpc as pb_grpc

from proa_workers.core.lease import Reader, Transfer
from proa_workers.errors import InvalidRequest, StaleTransfer, TransferFailed, UnknownTransfer, WorkerError
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.transport import Transport
from proa_workers.kv.wire import peer_message, transfer_message

log = logging.getLogger(__name__)

RPC_SECONDS = 2.0  # a living holder answers within milliseconds
STATUS_ERRORS: dict[grpc.StatusCode, type[WorkerError]] = {
    grpc.StatusCode.FAILED_PRECONDITION: StaleTransfer,
    grpc.StatusCode.NOT_FOUND: UnknownTransfer,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
}
CONNECTED = (grpc.ChannelConnectivity.CONNECTING, grpc.ChannelConnectivity.READY)

Q = TypeVar("Q")
A = TypeVar("A")


class PeerLink:
    """Made by `connect.connect`; closes itself after `retire` with its last user."""

    def __init__(
        self, address: str, channel: grpc.aio.Channel, holder: Reader, transport: Transport, reader: Reader
    ) -> None:
        self.address = address
        self.holder = holder
        self.transport = transport
        self.stub = pb_grpc.KvControlStub(channel)
        self.num_users = 0
        self._channel = channel
        self._reader = reader
        self._moves: dict[Transfer, StopSignal] = {}
        self._renewals: asyncio.Task[None] | None = None

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q, seconds: float = RPC_SECONDS) -> A:
        """As `call`."""
        return await call(method, request, seconds, self.address)

    @contextmanager
    def renewing(self, transfer: Transfer, stop: StopSignal, lease_seconds: float) -> Iterator[None]:
        """Renew the lease, in one call with others of this holder, while a move runs; stop the move when it is lost."""
        self._moves[transfer] = stop
        if self._renewals is None or self._renewals.done():
            self._renewals = asyncio.create_task(self._renew(lease_seconds / 3))
        try:
            yield
        finally:
            del self._moves[transfer]

    async def lost(self) -> None:
        """Return when the holder is gone: its connection broke or is closed."""
        state = self._channel.get_state()
        while state in CONNECTED:
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state()

    async def close(self) -> None:
        if self._renewals:
            self._renewals.cancel()
        self.transport.close()
        await self._channel.close()

    async def _renew(self, interval_seconds: float) -> None:
        while True:
            await asyncio.sleep(interval_seconds)
            if not self._moves:
                return
            request = pb.RenewRequest(transfers=map(transfer_message, self._moves), reader=peer_message(self._reader))
            try:
                reply = await self.call(self.stub.Renew, request, interval_seconds)
            except WorkerError as error:
                log.warning("lease renewal failed", extra={"peer": self.address, "reason": str(error)})
                continue
            for transfer, stop in self._moves.items():
                if transfer.transfer_id in reply.lost_transfer_ids:
                    stop.stop(StaleTransfer(f"the lease of transfer {transfer.transfer_id} was lost while it was read"))


async def call(method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q, seconds: float, address: str) -> A:
    """One RPC with a deadline; a status becomes StaleTransfer, UnknownTransfer, InvalidRequest, else TransferFailed."""
    try:
        return await method(request, timeout=max(seconds, 0.001))
    except grpc.aio.AioRpcError as error:
        kind = STATUS_ERRORS.get(error.code(), TransferFailed)
        raise kind(f"holder {address}: {error.details() or error.code().name}") from None
    except asyncio.CancelledError:
        # NOTE: a call on a channel that is closed meanwhile ends like this too, without anybody cancelling the task.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise TransferFailed(f"holder {address}: the connection was closed") from None
