"""Fixed-size decode batches (what CUDA graphs hold), run eagerly on the CPU; bucket sizes; which plans fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from proa_workers.model.arms import Arms
from proa_workers.model.assemble import pack_padded_decode, padded_decode_batch
from proa_workers.model.graphs import MAX_GRAPH_KEYS, MAX_GRAPH_ROWS, bucket, fits_graph
from proa_workers.model.paged import PagedKv

from tests.model.checkpoints import Harness, random_ids, shuffled_tables


@pytest.mark.parametrize("arms", [Arms(), Arms(attention="paged", norm="fused")], ids=["batched", "paged"])
@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize(("num_rows", "num_blocks"), [(3, 8), (4, 8), (8, 12)])
def test_padded_decode_equals_plain_decode(
    name: str,
    num_rows: int,
    num_blocks: int,
    arms: Arms,
    checkpoint: Callable[[str], Path],
    open_engine: Callable[..., Harness],
) -> None:
    harness, tables, lengths = open_engine(checkpoint(name)), shuffled_tables(3), (9, 30, 2)
    ids = [random_ids(n, seed) for seed, n in enumerate(lengths)]
    for i, n in enumerate(lengths):
        harness.step(harness.slice_of(ids[i], 0, n - 1, tables[i]))
    slices = [harness.slice_of(ids[i], n - 1, n, tables[i]) for i, n in enumerate(lengths)]
    plain_RV = harness.step(*slices)
    engine = harness.engine
    kv = PagedKv(torch.frombuffer(engine.kv.buffer, dtype=torch.float32)[: pool_elements(harness)], engine.kv.layout)  # type: ignore[attr-defined]
    with torch.inference_mode():
        buffer = torch.from_numpy(pack_padded_decode(slices, num_rows, num_blocks, 4))
        batch = padded_decode_batch(buffer, num_rows, num_blocks, kv)
        padded_RV = engine.decoder.logits(engine.decoder.forward(batch, kv, arms))
    assert padded_RV.shape[0] == num_rows
    torch.testing.assert_close(padded_RV[:3], plain_RV, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded_RV[3:], plain_RV[:1].expand(num_rows - 3, -1), atol=1e-5, rtol=1e-5)


def pool_elements(harness: Harness) -> int:
    layout = harness.engine.kv.layout
    return harness.engine.kv.num_blocks * layout.block_bytes // 4


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (6, 6), (7, 8), (9, 12), (13, 16), (17, 24), (257, 384)]
)
def test_bucket(count: int, size: int) -> None:
    assert bucket(count) == size


def test_buckets_waste_less_than_half() -> None:
    assert all(count <= bucket(count) < 1.5 * count for count in range(1, 2000))


def test_only_decode_rows_that_want_logits_fit(
    checkpoint: Callable[[str], Path], open_engine: Callable[..., Harness]
) -> None:
    harness, ids, (table,) = open_engine(checkpoint("qwen3")), random_ids(9), shuffled_tables(1)
    decode = harness.slice_of(ids, 8, 9, table)
    assert fits_graph([decode] * MAX_GRAPH_ROWS, Arms())
    assert not fits_graph([decode] * (MAX_GRAPH_ROWS + 1), Arms())
    assert not fits_graph([decode, harness.slice_of(ids, 0, 5, table)], Arms())
    assert not fits_graph([replace(decode, row=None)], Arms())
    long = replace(decode, start=MAX_GRAPH_KEYS // 8 - 1)
    assert fits_graph([decode] * 7 + [long], Arms())
    assert not fits_graph([decode] * 8 + [long], Arms())
    assert fits_graph([decode] * 8 + [long], Arms(attention="paged")), "paged kernels read no padded keys"
