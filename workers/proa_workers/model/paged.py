"""Paged KV cache as rows of a block-major pool (layout: kv/layout.py).

Legend: L layers, P planes per layer (K and V: 2; MLA latent: 1), K kv heads (MLA: 1), W row width; B sequences,
N blocks of a sequence, S = N * block_tokens keys, T tokens. A tile is the run of block_tokens rows of one
(block, layer, plane, head); tile ids and row ids number the pool in memory order, so that a gather is one index_select.
"""

from __future__ import annotations

import math

import torch

from proa_workers.kv.layout import KvLayout


class PagedKv:
    """Rows of one pool tensor [num_blocks, *layout.block_shape]; `layers` are views of it, one per layer.

    The pool must start finite: `gather` copies rows that are masked later.
    """

    def __init__(self, pool: torch.Tensor, layout: KvLayout) -> None:
        self.pool = pool
        self.block_tokens = layout.block_tokens
        self.num_layers = layout.block_shape[0]
        self.num_planes, self.num_heads = (1, 1) if layout.kind == "mla" else layout.block_shape[1:3]
        self.width = layout.block_shape[-1]
        self.layers = pool.view(-1, *layout.block_shape).unbind(1)
        self._rows = pool.view(-1, self.width)
        self._tiles = pool.view(-1, self.block_tokens * self.width)
        shape_LPK = (self.num_layers, self.num_planes, self.num_heads)
        self._tile_LPK = torch.arange(math.prod(shape_LPK), device=pool.device).view(shape_LPK)

    def tile_ids(self, blocks_BN: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Per layer, tile ids [P*B*K*N] of `blocks`, for `gather`."""
        per_block = self._tile_LPK.numel()
        tiles_LPBKN = blocks_BN[:, None, :] * per_block + self._tile_LPK[:, :, None, :, None]
        return tiles_LPBKN.reshape(self.num_layers, -1).unbind(0)

    def row_ids(self, blocks_T: torch.Tensor, offsets_T: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Per layer and plane (index layer * P + plane), row ids [T*K] where the tokens' KV rows are written."""
        per_block = self._tile_LPK.numel() * self.block_tokens
        base_T = blocks_T * per_block + offsets_T
        rows_LPTK = base_T[:, None] + self._tile_LPK[:, :, None, :] * self.block_tokens
        return rows_LPTK.reshape(self.num_layers * self.num_planes, -1).unbind(0)

    def write(self, row_ids: torch.Tensor, values_TKW: torch.Tensor) -> None:
        """Store all tokens' rows of one plane."""
        self._rows.index_copy_(0, row_ids, values_TKW.reshape(-1, self.width))

    def gather(self, tile_ids: torch.Tensor, num_sequences: int) -> torch.Tensor:
        """Rows [P, B, K, S, W] of one layer, copied out of the pool."""
        tiles = self._tiles.index_select(0, tile_ids)
        return tiles.view(self.num_planes, num_sequences, self.num_heads, -1, self.width)
