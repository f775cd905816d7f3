"""Between the values of the lease machine and the messages of kv_control.proto."""

from __future__ import annotations

from collections.abc import Iterable

from proa_proto.v1 import kv_control_pb2 as pb

from proa_workers.core.lease import Reader, Transfer
from proa_workers.kv.layout import BlockRun


def peer_message(reader: Reader) -> pb.Peer:
    return pb.Peer(engine_id=reader.engine_id, epoch=reader.epoch)


def peer_value(message: pb.Peer) -> Reader:
    return Reader(message.engine_id, message.epoch)


def transfer_message(transfer: Transfer) -> pb.Transfer:
    return pb.Transfer(**transfer._asdict())


def transfer_value(message: pb.Transfer) -> Transfer:
    return Transfer(message.engine_id, message.epoch, message.transfer_id, message.generation)


def run_messages(runs: Iterable[BlockRun]) -> list[pb.BlockRun]:
    return [pb.BlockRun(start=run.start, num_blocks=run.num_blocks) for run in runs]


def run_values(messages: Iterable[pb.BlockRun]) -> list[BlockRun]:
    return [BlockRun(message.start, message.num_blocks) for message in messages]
