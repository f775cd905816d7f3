"""Block sizes worth measuring for the grouped products on sm90, by kind and row tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from proa_kernels.arch import GemmBlocks

Kind = Literal["bf16", "fp8", "fp8-rowwise", "a16w8"]
# columns, depth, warps, stages
Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    product: Literal[1, 2]
    kind: Kind
    blocks: GemmBlocks
    tma: bool

    @property
    def label(self) -> str:
        b = self.blocks
        return f"{b.rows}x{b.cols}x{b.depth} g{b.group} w{b.num_warps} s{b.num_stages}{' tma' if self.tma else ''}"


BF16: dict[tuple[int, int], list[Shape]] = {
    (1, 16): [(64, 128, 4, 4), (32, 128, 4, 5), (32, 256, 4, 3), (64, 128, 4, 3), (32, 128, 4, 8), (64, 128, 4, 5)],
    (1, 32): [(64, 128, 4, 4), (32, 128, 4, 5), (64, 64, 4, 6), (64, 128, 4, 3), (64, 128, 8, 3)],
    (1, 64): [(64, 64, 4, 4), (64, 64, 4, 6), (128, 64, 8, 4), (128, 64, 4, 3)],
    (1, 128): [(128, 64, 8, 3), (128, 64, 8, 4), (64, 64, 4, 4), (64, 64, 8, 4)],
    (2, 16): [(128, 128, 4, 4), (64, 128, 4, 5), (64, 256, 4, 3), (64, 128, 4, 8), (64, 256, 4, 5)],
    (2, 32): [(128, 128, 4, 4), (64, 128, 4, 5), (128, 64, 4, 6), (128, 128, 4, 3), (256, 64, 8, 4)],
    (2, 64): [(128, 64, 4, 4), (128, 64, 4, 6), (256, 64, 8, 4), (256, 64, 4, 3)],
    (2, 128): [(256, 64, 8, 3), (256, 64, 8, 4), (128, 64, 4, 4), (128, 64, 8, 4)],
}
FP8: dict[tuple[int, int], list[Shape]] = {
    (1, 64): [(64, 128, 4, 4), (128, 128, 8, 4)],
    (1, 128): [(64, 128, 4, 4), (64, 128, 8, 4), (128, 128, 8, 3), (128, 128, 8, 4)],
    (2, 64): [(128, 128, 4, 4), (128, 128, 8, 4)],
    (2, 128): [(128, 128, 4, 4), (128, 128, 8, 3), (128, 128, 8, 4), (128, 128, 8, 5)],
}
FP8_ROWWISE: dict[tuple[int, int], list[Shape]] = {
    (1, 64): [(128, 128, 8, 4)],
    (1, 128): [(128, 128, 8, 3), (128, 128, 8, 4), (128, 64, 8, 4)],
    (2, 64): [(128, 128, 4, 4)],
    (2, 128): [(128, 128, 8, 3), (128, 128, 8, 4)],
}
A16W8: dict[tuple[int, int], list[Shape]] = {
    (1, 16): [(64, 128, 4, 4), (32, 128, 4, 5), (32, 128, 8, 4)],
    (2, 16): [(64, 128, 4, 4), (32, 128, 4, 5), (128, 128, 8, 3)],
}
TABLES: dict[Kind, dict[tuple[int, int], list[Shape]]] = {
    "bf16": BF16,
    "fp8": FP8,
    "fp8-rowwise": FP8_ROWWISE,
    "a16w8": A16W8,
}


def candidates(kind: Kind, product: Literal[1, 2], rows: int) -> list[Candidate]:
    """With and without TMA; empty where the kind has no such row tile."""
    group = 8 if rows >= 64 else 1
    return [
        Candidate(
            product=product,
            kind=kind,
            blocks=GemmBlocks(
                rows=rows, cols=cols, depth=depth, group=group, num_warps=num_warps, num_stages=num_stages
            ),
            tma=tma,
        )
        for cols, depth, num_warps, num_stages in TABLES[kind].get((product, rows), [])
        for tma in (True, False)
    ]


def all_candidates() -> Iterator[Candidate]:
    for kind in TABLES:
        for product in (1, 2):
            for rows in (16, 32, 64, 128):
                yield from candidates(kind, product, rows)
