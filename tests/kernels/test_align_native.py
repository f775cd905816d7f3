"""The CUDA/HIP text of align & sort, run on the CPU by an emulator of blocks with waves of 32 and of 64."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest
import torch
from proa_kernels import moe_align as moe_align_module
from proa_kernels import native
from proa_kernels.align_native import MAX_NATIVE_BLOCKS
from proa_kernels.doctor_checks import MANY_TOKENS
from proa_kernels.moe_align import align_ref, empty_alignment
from proa_kernels.native import NativeUnavailable, _build, pointer, text_of
from proa_kernels.testing import Guarded, alignment_faults

HERE = Path(__file__).parent
CPU = torch.device("cpu")
TEXT = text_of("align")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ for the emulator")
# tokens, experts per token, experts, block rows, most blocks of two launches: up to 16384 pairs take one launch; then
# a block takes one tile of 2048 or 4096 pairs (half as many from 257 experts on), or many tiles
SHAPES = [
    (0, 8, 8, 4, 6),
    (1, 8, 256, 64, 6),
    (16, 8, 65, 16, 6),
    (128, 8, 256, 64, 6),
    (205, 5, 257, 8, 6),
    (257, 8, 8, 128, 6),
    (1300, 4, 512, 4, 6),
    (2050, 8, 256, 64, 9),
    (3300, 5, 511, 8, 9),
    (2050, 8, 9, 64, 5),
    (2050, 8, 256, 64, 2),
    (3301, 5, 512, 16, 1),
]


@pytest.fixture(scope="module", params=[32, 64])
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, emulate) -> ctypes.CDLL:
    return emulate(tmp_path_factory.mktemp("align") / "build", request.param, TEXT)


def run(
    functions: ctypes.CDLL,
    ids: torch.Tensor,
    num_experts: int,
    block_rows: int,
    expert_map: torch.Tensor | None = None,
    num_tokens: torch.Tensor | None = None,
    max_blocks: int = 6,
    margin: int = 64,
) -> list[str]:
    sizes = [tensor.numel() for tensor in empty_alignment(ids.numel(), num_experts, block_rows, CPU).tensors()]
    guards = [Guarded.empty((size,), torch.int32, CPU, margin) for size in sizes]
    outputs = tuple(guard.tensor for guard in guards)
    size = functions.proa_align_workspace(ids.numel(), num_experts, max_blocks)
    workspace = Guarded.empty((-(-size // 4),), torch.int32, CPU)
    error = functions.proa_align(
        *map(pointer, (ids, expert_map, num_tokens)), ids.numel(), ids.shape[1], num_experts,
        0 if expert_map is None else expert_map.numel(), block_rows.bit_length() - 1, max_blocks,
        *map(pointer, (workspace.tensor, *outputs)), None,
    )  # fmt: skip
    assert error == 0
    faults = alignment_faults(outputs, align_ref(ids, num_experts, block_rows, expert_map, num_tokens), block_rows)
    return faults + [f"canary {idx}" for idx, guard in enumerate([*guards, workspace]) if not guard.is_intact()]


def random_ids(tokens: int, per_token: int, high: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return torch.randint(-1, high, (tokens, per_token), generator=generator, dtype=torch.int32)


@needs_compiler
@pytest.mark.parametrize(("tokens", "per_token", "num_experts", "block_rows", "max_blocks"), SHAPES)
def test_shapes_with_dropped_ids(
    functions, tokens: int, per_token: int, num_experts: int, block_rows: int, max_blocks: int
):
    ids = random_ids(tokens, per_token, num_experts + 2)
    assert run(functions, ids, num_experts, block_rows, max_blocks=max_blocks) == []


@needs_compiler
@pytest.mark.parametrize("tokens", [40, 4100])
def test_map_and_token_count(functions, tokens: int):
    expert_map = torch.full((64,), -1, dtype=torch.int32)
    expert_map[7:23] = torch.arange(16, dtype=torch.int32)
    ids = random_ids(tokens, 4, 66)
    assert run(functions, ids, 16, 8, expert_map=expert_map) == []
    for count in (-1, 0, 13, tokens, tokens + 5):
        assert run(functions, ids, 64, 8, num_tokens=torch.tensor([count], dtype=torch.int32)) == []


@needs_compiler
def test_all_ids_equal(functions):
    for value in (0, 7, 8):
        assert run(functions, torch.full((600, 4), value, dtype=torch.int32), 8, 16) == []
    for max_blocks in (1, 9):
        assert run(functions, torch.full((2050, 8), 7, dtype=torch.int32), 8, 16, max_blocks=max_blocks) == []


PLANTED = {
    "no barrier before the waves are summed": ("  __syncthreads();\n  sum_waves(", "  sum_waves("),
    "ranks count later lanes": ("(static_cast<Lanes>(1) << lane) - 1", "~((static_cast<Lanes>(2) << lane) - 1)"),
    "a wave forgets what it held": ("before + COUNT_LANES(equal)", "COUNT_LANES(equal)"),
    "tiles do not advance": ("base[e] += tile_count[e];", ";"),
    "blocks start alike": ("before += row < blockIdx.x ? here : 0;", ";"),
    "padding one short": ("r = count[e] + lane;", "r = count[e] + 1 + lane;"),
    "one launch forgets earlier waves": (
        "for (int w = 0; w < wave; ++w) row +=",
        "for (int w = 1; w < wave; ++w) row +=",
    ),
}


@needs_compiler
@pytest.mark.parametrize("fault", PLANTED)
def test_emulator_catches(fault: str, tmp_path: Path, emulate):
    assert TEXT.count(PLANTED[fault][0]) == 1
    functions = emulate(tmp_path / "build", 32, TEXT.replace(*PLANTED[fault]))
    few, many = random_ids(1500, 4, 9), random_ids(2050, 8, 9)
    wide = 1 << 17  # wrong rows must not land outside of our memory
    faults = [
        run(functions, ids, 8, 16, max_blocks=blocks, margin=wide) for ids, blocks in ((few, 6), (many, 9), (many, 1))
    ]
    assert faults != [[], [], []]


@needs_compiler
def test_the_doctor_takes_every_way(functions: ctypes.CDLL):
    """Each way wants a workspace of its own size: none, ranks beside counts for tiles of either size, counts."""
    for tokens, each in ((300, 0), *zip(MANY_TOKENS, (2, 4, 0), strict=True)):
        pairs = 3 * tokens
        tiles = -(-pairs // (each * 1024)) if each else 0
        wanted = 2 * (tiles * 65 + pairs) if each else 4 * MAX_NATIVE_BLOCKS * 65 if pairs > 16384 else 0
        assert functions.proa_align_workspace(pairs, 65, MAX_NATIVE_BLOCKS) == wanted


def test_triton_aligns_where_no_compiler_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(moe_align_module, "arm_for", lambda *_: "native")
    monkeypatch.setattr(native.shutil, "which", lambda *_, **__: None)
    ids = random_ids(8, 4, 10)
    ours, expected = moe_align_module.moe_align(ids, 8, 4).tensors(), align_ref(ids, 8, 4)
    total = int(expected[2][0])
    assert torch.equal(ours[0][:total], expected[0][:total])
    assert torch.equal(ours[3], expected[3])


def test_refused_text_is_named(tmp_path: Path):
    with pytest.raises(NativeUnavailable, match=r"refused align\.cu"):
        _build(["false"], "align.cu", TEXT, tmp_path / "kernels.so")
    assert list(tmp_path.iterdir()) == []
