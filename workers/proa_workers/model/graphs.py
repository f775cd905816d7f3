"""CUDA graphs of pure decode steps: one launch instead of thousands.

A graph has fixed shapes, so rows and blocks are rounded up to a bucket; each bucket is captured when it is first needed
(some tenths of a second). All graphs share one memory pool and one place for logits, which are valid until the next
step: whatever reads them is queued before it, on the same stream. Where memory does not suffice for a graph, steps of
its size run eagerly.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from proa_workers.core.plan import SeqSlice
from proa_workers.model.arms import Arms
from proa_workers.model.assemble import pack_padded_decode, padded_decode_batch, put_unread
from proa_workers.model.decoder import Decoder
from proa_workers.model.paged import PagedKv

logger = logging.getLogger(__name__)
# Larger batches keep a GPU busy without a graph.
MAX_GRAPH_ROWS = 512
# Without paged kernels a graph gathers the longest context for every row, so that one long row among many short ones
# takes the memory of many long ones. Beyond this many keys rows are grouped by length, and the work hides the launches.
MAX_GRAPH_KEYS = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor


class DecodeGraphs:
    """Decode steps of one decoder over one pool, on the current device."""

    def __init__(self, decoder: Decoder, kv: PagedKv, arms: Arms) -> None:
        self._decoder = decoder
        self._kv = kv
        self._arms = arms
        self._captured: dict[tuple[int, int], Captured | None] = {}  # None: did not fit into the memory
        self._logits_RV = decoder.head_VM.new_empty(MAX_GRAPH_ROWS, decoder.head_VM.shape[0])
        self._memory = torch.cuda.graph_pool_handle()

    def logits(self, slices: Sequence[SeqSlice], unread_S: torch.Tensor | None = None) -> torch.Tensor | None:
        """[len(slices), V], in the slices' order; valid until the next call. `unread_S`: see `put_unread`.

        None where memory does not suffice for a graph of this size.
        """
        num_blocks = max((s.end - 1) // self._kv.block_tokens + 1 for s in slices)
        sizes = (bucket(len(slices)), bucket(num_blocks))
        host = torch.from_numpy(pack_padded_decode(slices, *sizes, self._kv.block_tokens)).pin_memory()
        if sizes not in self._captured:
            self._captured[sizes] = self._try_capture(host, sizes)
        captured = self._captured[sizes]
        if captured is None:
            return None
        captured.inputs.copy_(host, non_blocking=True)
        if unread_S is not None:
            put_unread(captured.inputs[: sizes[0]], unread_S, all(s.is_unread for s in slices))
        captured.graph.replay()
        return self._logits_RV[: len(slices)]

    def _try_capture(self, host: torch.Tensor, sizes: tuple[int, int]) -> Captured | None:
        try:
            # Unread tokens may be any here: the step itself writes the same rows once more.
            inputs = host.to(self._kv.pool.device)
            inputs[: sizes[0]].clamp_(min=0)
            return self._capture(inputs, sizes)
        except torch.OutOfMemoryError:
            if None not in self._captured.values():
                logger.warning(
                    "no memory for a CUDA graph: such steps run slower; lower --kv-cache-memory",
                    extra={"rows": sizes[0], "blocks": sizes[1]},
                )
            return None

    def _capture(self, inputs: torch.Tensor, sizes: tuple[int, int]) -> Captured:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._forward(inputs, sizes)  # libraries allocate their workspaces outside of the capture
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy KV blocks meanwhile, which a global capture would forbid.
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            self._forward(inputs, sizes)
        return Captured(graph=graph, inputs=inputs)

    def _forward(self, inputs: torch.Tensor, sizes: tuple[int, int]) -> None:
        batch = padded_decode_batch(inputs, *sizes, self._kv)
        hidden_RM = self._decoder.forward(batch, self._kv, self._arms)
        self._decoder.logits(hidden_RM, out_RV=self._logits_RV[: sizes[0]])


def fits_graph(slices: Sequence[SeqSlice], arms: Arms) -> bool:
    """Only decode rows, all of whose logits are wanted, and not too many rows or padded keys."""
    if len(slices) > MAX_GRAPH_ROWS:
        return False
    if arms.attention != "paged" and len(slices) * max(s.end for s in slices) > MAX_GRAPH_KEYS:
        return False
    return all(len(s.token_ids) == 1 and s.row is not None for s in slices)


def bucket(count: int) -> int:
    """Smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is at least `count`."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power
