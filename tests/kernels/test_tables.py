"""Measured tables: what is chosen from them, and which files are refused with which line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from proa_kernels import arch as defaults
from proa_kernels import tables_file
from proa_kernels.arch import CPU, GFX942, GFX950, MI300A, SM90, Arch, DecodeBlocks, GemmBlocks
from proa_kernels.tables import (
    LayerKey,
    LayerRow,
    LayerShape,
    LayerTable,
    Table,
    decode_blocks,
    experts_arm,
    gemm_blocks,
    key_of,
    layer_of,
    layer_plan,
    nearest,
)  # fmt: skip
from proa_kernels.tables_file import (
    SHIPPED,
    TUNED,
    Identity,
    TableError,
    dump,
    kernels_fingerprint,
    load,
    measured_table,
    parse,
)

SHAPE = LayerShape(num_experts=128, per_token=8, hidden=2048, width=768)


def tile(rows: int, cols: int = 64) -> GemmBlocks:
    return GemmBlocks(rows=rows, cols=cols, depth=64, group=1, num_warps=4, num_stages=3)


FEW = DecodeBlocks(cols=16, depth=256, num_warps=4)
MORE = DecodeBlocks(cols=4, depth=1024, num_warps=4)
ROWS = (
    LayerRow(tokens=1, arm="decode", us=10.0, up=FEW, down=FEW),
    LayerRow(tokens=4, arm="decode", us=20.0, up=MORE, down=FEW),
    LayerRow(tokens=32, arm="grouped", us=60.0, first=tile(32), second=tile(32)),
    LayerRow(tokens=256, arm="grouped", us=90.0, first=tile(32, 128), second=tile(32, 256)),
    LayerRow(tokens=4096, arm="grouped", us=900.0, first=tile(128), second=tile(128)),
)
LAYER = LayerTable(shape=SHAPE, kind="bf16", rows=ROWS)
TABLE = Table(arch="sm90", device="NVIDIA H200", kernels="abc", triton="3.6.0", layers=(LAYER,))
IDENTITY = Identity(arch="sm90", device="NVIDIA H200", kernels="abc", triton="3.6.0")


@pytest.mark.parametrize(
    ("pairs", "tokens"),
    [(0, 1), (8, 1), (9, 4), (32, 4), (33, 32), (91, 32), (255, 32), (724, 32), (725, 256), (8192, 256), (8193, 4096)],
)
def test_the_nearest_measured_row_counts(pairs: int, tokens: int):
    """Pairs are 8 a token; as ratios, 8192 lies in the middle of 2048 and 32768. Rows for few pairs serve no more."""
    row = nearest(LAYER, pairs)
    assert row is not None
    assert row.tokens == tokens


@pytest.mark.parametrize(("pairs", "rows"), [(8, 0), (32, 0), (40, 32), (256, 32), (2048, 32), (1 << 20, 128)])
def test_plan_of_a_measured_layer(pairs: int, rows: int):
    assert layer_plan(LAYER, pairs, 128, 32) == rows


def test_past_the_last_row_for_few_pairs_arch_chooses():
    few = replace(LAYER, rows=ROWS[:2])
    assert nearest(few, 33) is None
    assert layer_plan(few, 33, 128, 32) == 16
    assert layer_plan(few, 32, 128, 8) == 0


@pytest.mark.parametrize(("pairs", "max_few", "rows"), [(32, 32, 0), (33, 32, 16), (8, -1, 16), (1 << 20, 32, 128)])
def test_plan_without_a_table_is_that_of_arch(pairs: int, max_few: int, rows: int):
    assert layer_plan(None, pairs, 128, max_few) == rows


def test_blocks_are_those_of_the_slowest_row_with_that_tile():
    assert gemm_blocks(LAYER, SM90, 32, has_scale_blocks=False) == (tile(32, 128), tile(32, 256))
    assert gemm_blocks(LAYER, SM90, 128, has_scale_blocks=False) == (tile(128), tile(128))


@pytest.mark.parametrize(("pairs", "blocks"), [(1, (FEW, FEW)), (16, (FEW, FEW)), (17, (MORE, FEW)), (99, (MORE, FEW))])
def test_blocks_for_few_pairs_are_those_of_the_nearest_row(pairs: int, blocks: tuple[DecodeBlocks, DecodeBlocks]):
    assert decode_blocks(LAYER, SM90, pairs, is_scaled=False) == blocks


@pytest.mark.parametrize("arch", [SM90, GFX942, MI300A, GFX950], ids=lambda arch: f"{arch.name}-{arch.num_xcds}")
@pytest.mark.parametrize("is_scaled", [False, True])
def test_what_was_not_measured_is_chosen_by_arch(arch: Arch, is_scaled: bool):
    """For 6 and 8 XCDs, waves of 64 and 32."""
    for layer in (None, replace(LAYER, rows=ROWS[:1])):
        expected = defaults.gemm_blocks(arch, 64, has_scale_blocks=is_scaled)
        assert gemm_blocks(layer, arch, 64, has_scale_blocks=is_scaled) == expected
    only_grouped = replace(LAYER, rows=ROWS[2:])
    assert decode_blocks(only_grouped, arch, 8, is_scaled=is_scaled) == defaults.decode_blocks(
        arch, is_scaled=is_scaled
    )


KEY = LayerKey(num_experts=128, hidden=2048, width=768, kind="bf16")


@pytest.mark.parametrize(
    ("key", "is_found"),
    [
        (KEY, True),
        (None, False),
        (replace(KEY, num_experts=64), False),
        (replace(KEY, hidden=4096), False),
        (replace(KEY, width=384), False),
        (replace(KEY, kind="a16w8"), False),
    ],
)
def test_only_the_same_layer_is_found(key: LayerKey | None, is_found: bool):
    assert layer_of(TABLE, key) == (LAYER if is_found else None)
    assert layer_of(None, key) is None


def test_keys_of_products():
    blocks, rows = torch.ones(1, 1, 1), torch.ones(1, 1)
    sizes = (128, 2048, 768)
    assert key_of(torch.bfloat16, None, *sizes) == key_of(torch.float32, None, *sizes) == KEY
    assert key_of(torch.float16, blocks, *sizes) == replace(KEY, kind="a16w8")
    assert key_of(torch.float16, rows, *sizes) is None
    assert key_of(torch.float8_e4m3fn, blocks, *sizes) is None


def measured(*us: tuple[float, float]) -> LayerTable:
    rows = [LayerRow(tokens=1, arm="decode", us=own, up=FEW, down=FEW, aiter_us=theirs) for own, theirs in us]
    return replace(LAYER, rows=tuple(rows))


@pytest.mark.parametrize(
    ("arch", "layer", "arm"),
    [
        (SM90, None, "proa"),
        (CPU, None, "proa"),
        (SM90, measured((2.0, 1.0)), "proa"),
        (GFX942, None, "aiter"),
        (GFX950, None, "aiter"),
        (MI300A, measured((1.0, 0.0)), "aiter"),  # AITER was not there when it was measured
        (GFX942, measured((1.0, 2.0), (30.0, 40.0)), "proa"),
        (GFX942, measured((1.0, 3.0), (40.0, 20.0)), "proa"),
        (GFX950, measured((1.0, 1.5), (40.0, 20.0)), "aiter"),
    ],
)
def test_whose_experts(arch: Arch, layer: LayerTable | None, arm: str):
    assert experts_arm(arch, layer) == arm


def write(folder: Path, change: Callable[[dict[str, Any]], object] = lambda raw: None) -> Path:
    raw = json.loads(json.dumps(dump(TABLE)))
    change(raw)
    path = folder / "table.json"
    path.write_text(json.dumps(raw))
    return path


def test_a_table_survives_the_file(tmp_path: Path):
    assert load(write(tmp_path), IDENTITY) == TABLE
    with_more = write(tmp_path, lambda raw: raw.update(measured={"date": "today"}))
    assert load(with_more, IDENTITY) == TABLE


def row(raw: dict[str, Any], number: int = 0) -> Any:
    return raw["layers"][0]["rows"][number]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda raw: raw.update(arch="gfx942"), "measured with arch gfx942, not sm90"),
        (lambda raw: raw.update(device="NVIDIA H100"), "measured with device NVIDIA H100, not NVIDIA H200"),
        (lambda raw: raw.update(kernels="old"), "measured with kernels old, not abc"),
        (lambda raw: raw.update(triton="3.7.1"), "measured with triton 3.7.1, not 3.6.0"),
        (lambda raw: raw.update(format=2), "malformed (format is not 1)"),
        (lambda raw: raw.pop("layers"), "malformed ('layers')"),
        (lambda raw: raw.update(layers=[5]), "malformed"),
        (lambda raw: raw["layers"][0].update(kind="int4"), "malformed (kind int4)"),
        (lambda raw: raw["layers"][0].update(rows=[]), "malformed (a layer without rows)"),
        (lambda raw: raw["layers"][0]["shape"].pop("width"), "malformed"),
        (lambda raw: raw["layers"][0]["shape"].update(width=-1), "malformed (width -1)"),
        (lambda raw: row(raw).update(arm="torch"), "malformed (arm torch)"),
        (lambda raw: row(raw).update(up=None), "malformed (arm decode wants up and down alone)"),
        (lambda raw: row(raw).update(tokens=0), "malformed (0 tokens in 10.0 us)"),
        (lambda raw: row(raw).update(us="fast"), "malformed"),
        (lambda raw: row(raw)["up"].update(cols=True), "malformed (cols True)"),
        (lambda raw: row(raw)["up"].update(extra=1), "malformed"),
        (lambda raw: row(raw, 2)["first"].update(cols=48), "malformed (cols 48 is not a power of two)"),
        (lambda raw: raw["layers"][0].update(kind="a16w8", rows=[row(raw, 3)]), "cross a block of 128 scales"),
        (lambda raw: row(raw, 2)["first"].update(rows=8), "malformed (row tiles 8 and 32)"),
        (lambda raw: row(raw, 2)["second"].update(num_warps=0), "malformed (num_warps 0)"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_one_line(change: Any, line: str, tmp_path: Path):
    path = write(tmp_path, change)
    with pytest.raises(TableError) as caught:
        load(path, IDENTITY)
    message = str(caught.value)
    assert line in message
    assert f"proa-kernels tune --out {path}" in message
    assert "\n" not in message


def test_no_file_and_no_json(tmp_path: Path):
    with pytest.raises(TableError, match="cannot read kernel table"):
        load(tmp_path / "absent.json", IDENTITY)
    (tmp_path / "torn.json").write_text('{"format": 1, ')
    with pytest.raises(TableError, match="malformed"):
        load(tmp_path / "torn.json", IDENTITY)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> torch.device:
    """A device whose identity is `IDENTITY`, without a table that ships for it."""
    monkeypatch.setattr(tables_file, "identity_of", lambda _: IDENTITY)
    monkeypatch.setattr(tables_file, "SHIPPED", tmp_path)
    monkeypatch.delenv("PROA_KERNELS_TABLE", raising=False)
    measured_table.cache_clear()
    yield torch.device("cuda", 5)
    measured_table.cache_clear()


def test_a_named_table_must_fit(gpu: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROA_KERNELS_TABLE", str(write(tmp_path)))
    assert measured_table(gpu) == TABLE
    assert measured_table(torch.device("cpu")) is None
    measured_table.cache_clear()
    write(tmp_path, lambda raw: raw.update(arch="gfx950"))
    with pytest.raises(TableError, match="arch gfx950"):
        measured_table(gpu)


def test_a_shipped_table_is_taken_where_it_fits(
    gpu: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture
):  # fmt: skip
    assert measured_table(gpu) is None
    measured_table.cache_clear()
    shipped = tmp_path / "sm90-nvidia-h200.json"
    write(tmp_path).rename(shipped)
    assert measured_table(gpu) == TABLE
    measured_table.cache_clear()
    write(tmp_path, lambda raw: raw.update(kernels="old")).rename(shipped)
    with caplog.at_level(logging.WARNING):
        assert measured_table(gpu) is None
    assert [record.message for record in caplog.records] == ["the table that ships for this GPU is left aside"]
    assert "kernels old" in caplog.records[0].__dict__["reason"]


def test_shipped_tables_are_tables():
    """Of whatever kernels: a kernel may change before its table is measured again."""
    for path in SHIPPED.glob("*.json"):
        table = parse(json.loads(path.read_text(encoding="utf-8")))
        assert path.name.startswith(f"{table.arch}-")


def test_fingerprint_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in TUNED:
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(tables_file, "HERE", tmp_path)
    seen = set()
    for text in ("1", "2"):
        (tmp_path / "tiles.py").write_text(text)
        kernels_fingerprint.cache_clear()
        seen.add(kernels_fingerprint())
    kernels_fingerprint.cache_clear()
    assert len(seen) == 2
