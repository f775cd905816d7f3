"""Block layout of the KV cache as one value, which both sides of a hand-off compare.

Block-major: one block is one contiguous run of bytes over all layers, so that a transfer has as many pieces as runs of
consecutive blocks and not layers times blocks (vllm#55434). GQA block: [layer, 2 (k, v), kv_head, token, head_dim];
MLA block: [layer, token, kv_lora_rank + qk_rope_head_dim].
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

KvKind = Literal["gqa", "mla", "sim"]
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """`block_shape` is the shape of one block in elements of `dtype`; `block_tokens` its token capacity."""

    model: str
    kind: KvKind
    dtype: str
    block_tokens: int
    block_shape: tuple[int, ...]

    @property
    def block_bytes(self) -> int:
        return math.prod(self.block_shape) * DTYPE_BYTES[self.dtype]

    def compat_hash(self) -> str:
        """Hex digest that is equal exactly when blocks can be moved between two workers as bytes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


class BlockRun(NamedTuple):
    """Blocks start .. start + num_blocks - 1 of a pool."""

    start: int
    num_blocks: int


def to_runs(block_ids: Iterable[int]) -> list[BlockRun]:
    """Coalesce block ids, in order, into runs: [4, 5, 6, 2] -> [(4, 3), (2, 1)]."""
    runs: list[BlockRun] = []
    for block in block_ids:
        if runs and runs[-1].start + runs[-1].num_blocks == block:
            runs[-1] = BlockRun(runs[-1].start, runs[-1].num_blocks + 1)
        else:
            runs.append(BlockRun(block, 1))
    return runs


def from_runs(runs: Iterable[BlockRun]) -> list[int]:
    """Inverse of `to_runs`."""
    return [block for run in runs for block in range(run.start, run.start + run.num_blocks)]
