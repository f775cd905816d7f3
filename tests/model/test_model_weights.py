"""Loading: shards, fp8 blocks, MTP, progress; and an error that names file and tensor for everything that is wrong."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings
from proa_workers.errors import CheckpointError
from proa_workers.model.weights import INDEX, dequantize_blocks, weights_identity
from safetensors.torch import load_file, save_file

from tests.model.checkpoints import Harness, edit_config, random_ids, shuffled_tables

Tensors = dict[str, torch.Tensor]
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A qwen3_moe checkpoint that the test may spoil."""
    return Path(shutil.copytree(checkpoint("qwen3_moe"), tmp_path / "model"))


def edit_weights(folder: Path, edit: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, members in halves.items():
        save_file({n: tensors[n] for n in members}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": {n: f for f, members in halves.items() for n in members}}))


def logits(harness: Harness) -> torch.Tensor:
    ids, (table,) = random_ids(9), shuffled_tables(1)
    return harness.step(harness.slice_of(ids, 0, 9, table))


def test_shards_equal_one_file(folder: Path, open_engine: Callable[..., Harness]) -> None:
    whole = logits(open_engine(folder))
    shard(folder)
    assert torch.equal(logits(open_engine(folder)), whole)


def test_fp8_blocks_equal_their_dequantised_weights(folder: Path, open_engine: Callable[..., Harness]) -> None:
    def quantize(tensors: Tensors) -> None:
        for name in [n for n in tensors if "_proj.weight" in n]:
            scale = torch.full([math.ceil(n / 128) for n in tensors[name].shape], 0.003)
            stored = (tensors[name] / 0.003).clamp(-448, 448).to(torch.float8_e4m3fn)
            tensors |= {name: stored, f"{name}_scale_inv": scale}
            plain[name] = stored.float() * 0.003

    plain: Tensors = {}
    edit_weights(folder, quantize)
    edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    quantised = logits(open_engine(folder))
    edit_weights(folder, lambda t: [t.update(plain), *(t.pop(f"{n}_scale_inv") for n in plain)])
    assert torch.equal(logits(open_engine(folder)), quantised)


@pytest.mark.parametrize("shape", [(128, 128), (200, 300), (64, 640), (1, 129)])
def test_dequantised_blocks_equal_a_loop(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape).to(torch.float8_e4m3fn)
    scale = torch.rand([math.ceil(n / 128) for n in shape])
    expected = torch.empty(shape)
    for i in range(shape[0]):
        for j in range(shape[1]):
            expected[i, j] = weight[i, j].float() * scale[i // 128, j // 128]
    assert torch.equal(dequantize_blocks(weight, scale), expected)


def test_progress_rises_to_one(folder: Path) -> None:
    heard: list[float] = []
    engine = NativeEngine.from_checkpoint(folder, NativeSettings(device="cpu", num_blocks=64), heard.append)
    engine.close()
    assert heard == sorted(heard)
    assert len(heard) > 50
    assert heard[-1] == 1.0


def test_identity_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert weights_identity(copied) == weights_identity(folder)
    edit_weights(copied, lambda t: t["model.norm.weight"].mul_(2))
    assert weights_identity(copied) != weights_identity(folder)


def cut_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-2.safetensors").unlink()


def spoil_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text("{")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_file, r"model\.safetensors: not a complete safetensors file.*download it again"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 40), r"model\.safetensors: not a complete"),
        (lambda f: (f / "model.safetensors").unlink(), r"no \.safetensors file"),
        (lose_shard, r"model-2\.safetensors: missing, though .*index\.json lists it"),
        (spoil_index, r"index\.json: not valid JSON"),
        (lambda f: edit_weights(f, lambda t: t.pop(EXPERT)), rf"tensor {EXPERT} is missing"),
        (
            lambda f: edit_weights(f, lambda t: t.update({EXPERT: torch.zeros(32, 63)})),
            rf"model\.safetensors: tensor {EXPERT} has shape \[32, 63\], config\.json asks for \[32, 64\]",
        ),
        (
            lambda f: edit_weights(f, lambda t: t.update({EXPERT: torch.zeros(32, 64, dtype=torch.int8)})),
            rf"tensor {EXPERT} is I8.*--engine vllm",
        ),
        (
            lambda f: edit_weights(f, lambda t: t.update({EXPERT: t[EXPERT].to(torch.float8_e4m3fn)})),
            rf"{EXPERT}_scale_inv is missing",
        ),
        (
            lambda f: edit_weights(f, lambda t: t.update(extra=torch.zeros(1))),
            r"model\.safetensors: 1 unexpected tensors \(extra\)",
        ),
        (lambda f: edit_config(f, num_hidden_layers=2), r"unexpected tensors \(model\.layers\.2"),
        (lambda f: edit_config(f, vocab_size=161), r"embed_tokens\.weight has shape \[160, 64\]"),
    ],
)
def test_refuses(spoil: Callable[[Path], Any], says: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        NativeEngine.from_checkpoint(folder, NativeSettings(device="cpu", num_blocks=64))
    assert "\n" not in str(caught.value)


def test_a_sound_checkpoint_loads(folder: Path) -> None:
    """The control of `test_refuses`."""
    NativeEngine.from_checkpoint(folder, NativeSettings(device="cpu", num_blocks=64)).close()
