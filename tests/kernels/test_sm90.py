"""Which shapes the Gluon kernels of sm90 take, how they see pages, and one of them compiled without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from proa_kernels import (
    mla_decode_sm90,
    mla_decode_triton,
    moe_gemm_launch,
    moe_gemm_sm90,
    prefill_sm90,
    prefill_triton,
)
from proa_kernels.arch import SM90
from proa_kernels.sm90_tiles import SLAB_COLS, can_describe, page_rows

ROOT = Path(__file__).resolve().parents[2]
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("page_tokens", "row_gap", "offset", "is_possible"),
    [
        (8, 0, 0, True),
        (32, 0, 0, True),
        (64, 576, 0, True),  # pages of one layer inside pages of all layers
        (128, 0, 0, False),  # larger than a tile of keys
        (48, 0, 0, False),
        (32, 100, 0, False),  # pages that do not start at a row
        (32, 0, 4, False),  # not 16 bytes
    ],
)
def test_pages_that_a_descriptor_can_see(page_tokens: int, row_gap: int, offset: int, is_possible: bool):
    apart = page_tokens * 576 + row_gap
    pool = torch.zeros(3 * apart + 16, dtype=BF16)
    start = -pool.data_ptr() % 16 // 2 + offset
    cache = pool.as_strided((3, page_tokens, 576), (apart, 576, 1), start)
    assert can_describe(cache, page_tokens, 576) is is_possible


def test_pages_are_rows():
    """Row `page * rows_apart` of the descriptor is the first token of that page; its last row the last of the cache."""
    pool = torch.arange(4 * 2 * 8 * 64).view(4, 2, 8, 64).to(BF16)
    layer = pool[:, 1]
    desc, rows_apart = page_rows(layer, 8, 64)
    rows = layer.as_strided(desc.shape, desc.strides)
    assert rows_apart == 16
    assert desc.block_shape == [8, SLAB_COLS]
    for page in range(4):
        assert torch.equal(rows[page * rows_apart : page * rows_apart + 8], layer[page])
    assert desc.shape[0] == 3 * 16 + 8


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "max_keys", "is_taken"),
    [
        (32, 4, 128, 2048, True),
        (32, 32, 64, 2048, True),
        (32, 4, 128, prefill_sm90.MIN_KEYS, True),
        (32, 4, 128, prefill_sm90.MIN_KEYS - 1, False),
        (28, 4, 128, 2048, False),  # 7 query heads do not divide a tile
        (32, 4, 256, 2048, False),
        (32, 4, 96, 2048, False),
    ],
)
def test_prefill_shapes(heads: int, kv_heads: int, dim: int, max_keys: int, is_taken: bool):
    q, cache = torch.zeros(4, heads, dim, dtype=BF16), torch.zeros(2, 2, kv_heads, 32, dim, dtype=BF16)
    assert prefill_sm90.suits(q, cache, max_keys) is is_taken


@pytest.mark.parametrize(
    ("heads", "rank", "rotated", "max_keys", "is_taken"),
    [
        (128, 512, 64, 4096, True),
        (64, 512, 64, mla_decode_sm90.MIN_KEYS, True),
        (64, 512, 64, mla_decode_sm90.MIN_KEYS - 1, False),
        (32, 512, 64, 4096, False),
        (128, 256, 64, 4096, False),
        (128, 512, 32, 4096, False),
    ],
)
def test_latent_shapes(heads: int, rank: int, rotated: int, max_keys: int, is_taken: bool):
    q, q_rotated = torch.zeros(1, heads, rank, dtype=BF16), torch.zeros(1, heads, rotated, dtype=BF16)
    cache = torch.zeros(2, 32, rank + rotated, dtype=BF16)
    assert mla_decode_sm90.suits(q, q_rotated, cache, max_keys) is is_taken


@pytest.mark.parametrize(
    ("x_dtype", "scale_dims", "block_rows", "is_taken"),
    [(FP8, 3, 128, True), (FP8, 3, 64, False), (FP8, 2, 128, False), (BF16, 3, 128, False)],
)
def test_product_shapes(x_dtype: torch.dtype, scale_dims: int, block_rows: int, is_taken: bool):
    x, w = torch.zeros(4, 256).to(x_dtype), torch.zeros(2, 256, 256).to(FP8)
    scale = torch.zeros((2, 2, 2) if scale_dims == 3 else (2, 256))
    assert moe_gemm_sm90.suits(x, w, scale, block_rows) is is_taken


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sm90 launches on what claims to be that GPU."""
    calls: list[str] = []

    def record(module: ModuleType, name: str) -> None:
        monkeypatch.setattr(module, name, lambda *_: calls.append(name))

    for module in (prefill_triton, mla_decode_triton, moe_gemm_launch):
        monkeypatch.setattr(module, "arch_of", lambda _: SM90)
    record(prefill_sm90, "launch_prefill_sm90")
    record(mla_decode_sm90, "launch_mla_decode_sm90")
    record(moe_gemm_sm90, "launch_gemm1_sm90")
    record(moe_gemm_sm90, "launch_gemm2_sm90")
    return calls


def test_ops_on_sm90_launch_them(launched: list[str]):
    ints, table = torch.zeros(3, dtype=torch.int64), torch.zeros(2, 16, dtype=torch.int64)
    q, cache = torch.zeros(512, 32, 128, dtype=BF16), torch.zeros(2, 2, 4, 32, 128, dtype=BF16)
    prefill_triton.launch_gqa_prefill(q, cache, table, ints, ints[:2], 512, 1.0, q)
    latent, rotated = torch.zeros(2, 128, 512, dtype=BF16), torch.zeros(2, 128, 64, dtype=BF16)
    pages = torch.zeros(2, 32, 576, dtype=BF16)
    mla_decode_triton.launch_mla_decode(latent, rotated, pages, table, ints[:2], 1.0, latent)
    x, w, scale = torch.zeros(4, 256).to(FP8), torch.zeros(2, 256, 256).to(FP8), torch.zeros(2, 2, 2)
    moe_gemm_launch.launch_gemm1(x, w, ints, ints, ints, q, 128, 1, scale, scale)
    moe_gemm_launch.launch_gemm2(x, w, ints, ints, q, 128, scale, scale)
    assert launched == ["launch_prefill_sm90", "launch_mla_decode_sm90", "launch_gemm1_sm90", "launch_gemm2_sm90"]


def test_one_of_them_compiles_without_a_gpu():
    """The tool ends with an error when a kernel spills or needs too much shared memory."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "tools" / "kernels_sm90.py"), "--only", "gemm2"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "'QGMMA': 8, 'UTMALDG': 2" in done.stdout
