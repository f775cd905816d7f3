"""The CUDA/HIP text of align & sort, run on the CPU by an emulator of blocks with waves of 32 and of 64."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from proa_kernels.moe_align import align_ref, empty_alignment
from proa_kernels.native import SOURCE, NativeUnavailable, _build
from proa_kernels.testing import Guarded, alignment_faults

HERE = Path(__file__).parent
CPU = torch.device("cpu")
MAX_BLOCKS = 6
LAUNCH = re.compile(r"(\w+(?:<\d>)?)<<<([^;]*?), stream>>>\(([^;]*?)\);", re.DOTALL)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ for the emulator")
# tokens, experts per token, experts, block rows
SHAPES = [
    (0, 8, 8, 4),
    (1, 8, 256, 64),
    (16, 8, 65, 16),
    (128, 8, 256, 64),
    (205, 5, 257, 8),
    (256, 8, 256, 64),
    (257, 8, 8, 128),
    (1300, 4, 512, 4),
]

AlignCall = Callable[..., int]


def build(folder: Path, wave: int, text: str) -> ctypes.CDLL:
    """The text as a library for the CPU: launches become calls of the emulator, the rest is compiled as it stands."""
    (folder / "hip").mkdir(parents=True)
    for name in ("cuda_runtime.h", "hip/hip_runtime.h"):
        (folder / name).write_text('#include "block_emulator.hpp"\n')
    source = folder / "align.cpp"
    source.write_text(
        LAUNCH.sub(r"emulator::launch(\2, [=] { \1(\3); });", text).replace("extern __shared__", "extern")
    )
    platform = ["-D__HIP_PLATFORM_AMD__"] if wave == 64 else []
    command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", f"-DEMULATED_WAVE={wave}", *platform]
    command += ["-Wno-unknown-pragmas", f"-I{folder}", f"-I{HERE}", str(source), "-o", str(folder / "align.so")]
    subprocess.run(command, check=True, timeout=120)
    return ctypes.CDLL(str(folder / "align.so"))


@pytest.fixture(scope="module", params=[32, 64])
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("align") / "build", request.param, SOURCE.read_text())


def run(
    functions: ctypes.CDLL,
    ids: torch.Tensor,
    num_experts: int,
    block_rows: int,
    expert_map: torch.Tensor | None = None,
    num_tokens: torch.Tensor | None = None,
) -> list[str]:
    sizes = [tensor.numel() for tensor in empty_alignment(ids.numel(), num_experts, block_rows, CPU).tensors()]
    guards = [Guarded.empty((size,), torch.int32, CPU) for size in sizes]
    outputs = tuple(guard.tensor for guard in guards)
    blocks = functions.proa_align_blocks(ids.numel(), num_experts, MAX_BLOCKS)
    workspace = Guarded.empty((blocks * num_experts,), torch.int32, CPU)
    error = functions.proa_align(
        *map(pointer, (ids, expert_map, num_tokens)), ids.numel(), ids.shape[1], num_experts,
        0 if expert_map is None else expert_map.numel(), block_rows.bit_length() - 1, blocks,
        *map(pointer, (workspace.tensor, *outputs)), None,
    )  # fmt: skip
    assert error == 0
    faults = alignment_faults(outputs, align_ref(ids, num_experts, block_rows, expert_map, num_tokens), block_rows)
    return faults + [f"canary {idx}" for idx, guard in enumerate([*guards, workspace]) if not guard.is_intact()]


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def random_ids(tokens: int, per_token: int, high: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(tokens)
    return torch.randint(-1, high, (tokens, per_token), generator=generator, dtype=torch.int32)


@needs_compiler
@pytest.mark.parametrize(("tokens", "per_token", "num_experts", "block_rows"), SHAPES)
def test_shapes_with_dropped_ids(functions, tokens: int, per_token: int, num_experts: int, block_rows: int):
    assert run(functions, random_ids(tokens, per_token, num_experts + 2), num_experts, block_rows) == []


@needs_compiler
@pytest.mark.parametrize("tokens", [40, 700])
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


RACE = "  __syncthreads();\n  for (int e = threadIdx.x; e < p.num_experts; e += blockDim.x) {\n    int before = 0;"
PLANTED = {
    "no barrier before the waves are summed": (RACE, RACE.partition("\n")[2]),
    "ranks count later lanes": ("((1ull << lane) - 1)", "~((2ull << lane) - 1)"),
    "tiles do not advance": ("base[e] += tile_count[e];", ";"),
    "padding one short": ("r = count[e] + lane;", "r = count[e] + 1 + lane;"),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("fault", PLANTED)
def test_emulator_catches(fault: str, tmp_path: Path):
    text = SOURCE.read_text()
    assert text.count(PLANTED[fault][0]) == 1
    functions = build(tmp_path / "build", 32, text.replace(*PLANTED[fault]))
    assert run(functions, random_ids(2000, 4, 9), 8, 16) != []


def test_refused_text_is_named(tmp_path: Path):
    with pytest.raises(NativeUnavailable, match=r"refused align\.cu"):
        _build(["false"], tmp_path / "kernels.so")
    assert list(tmp_path.iterdir()) == []
