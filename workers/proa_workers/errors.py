"""Errors of the data plane: one tree, one class = one gRPC status.

WorkerError (INTERNAL)
├── UserMistake (INVALID_ARGUMENT)          the caller can fix it; at start-up: exit code 2
│   ├── InvalidRequest                      a request that can never run here
│   ├── SettingsError                       unknown, bad or contradictory setting
│   └── CheckpointError                     missing, corrupt, mis-shaped or unknown model
├── Saturated (RESOURCE_EXHAUSTED)          no room now; safe to retry on another worker
├── Draining (UNAVAILABLE)                  this worker takes no new requests; retry elsewhere
│   └── EngineFailed                        because its engine broke; the process ends
├── TransferFailed (UNAVAILABLE)            KV blocks did not arrive; retry or recompute
├── StaleTransfer (FAILED_PRECONDITION)     epoch or generation moved on: the blocks are no longer yours
├── IncompatiblePeer (FAILED_PRECONDITION)  the two workers' KV layouts differ
├── UnknownTransfer (NOT_FOUND)             no such lease (consumed, expired or never made)
└── Unsupported (UNIMPLEMENTED)             this engine cannot do it and says so
"""

from __future__ import annotations

from typing import ClassVar


class WorkerError(Exception):
    """Base: `code` is the name of the gRPC status that the interceptor answers with."""

    code: ClassVar[str] = "INTERNAL"


class UserMistake(WorkerError):
    code = "INVALID_ARGUMENT"


class InvalidRequest(UserMistake):
    pass


class SettingsError(UserMistake):
    pass


class CheckpointError(UserMistake):
    pass


class Saturated(WorkerError):
    code = "RESOURCE_EXHAUSTED"


class Draining(WorkerError):
    code = "UNAVAILABLE"


class EngineFailed(Draining):
    def __init__(self) -> None:
        super().__init__("the engine failed: retry on another worker")


class TransferFailed(WorkerError):
    code = "UNAVAILABLE"


class StaleTransfer(WorkerError):
    code = "FAILED_PRECONDITION"


class IncompatiblePeer(WorkerError):
    code = "FAILED_PRECONDITION"


class UnknownTransfer(WorkerError):
    code = "NOT_FOUND"


class Unsupported(WorkerError):
    code = "UNIMPLEMENTED"
