"""Reads a Hugging Face checkpoint folder: one safetensors file, or shards with an index.

Every tensor must be asked for once: a missing, mis-shaped, unreadable or left-over tensor is a CheckpointError that
names file and tensor. DeepSeek's fp8 weights (blocks of 128 x 128 with `weight_scale_inv`) become the engine's dtype.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from proa_workers.errors import CheckpointError
from proa_workers.model.hf_config import read_json

INDEX = "model.safetensors.index.json"
FP8_BLOCK = 128
SCALE_SUFFIX = "_scale_inv"
FLOATS = {"F32", "F16", "BF16", "F8_E4M3"}
# Buffers that older files carry and that follow from config.json.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)

Progress = Callable[[float], None]


class CheckpointReader:
    """WeightSource over the safetensors files of `folder`; `progress` hears the fraction of bytes read."""

    def __init__(
        self, folder: Path, *, dtype: torch.dtype, device: torch.device, progress: Progress | None = None
    ) -> None:
        self.dtype = dtype
        self.device = device
        self._folder = folder
        self._progress = progress
        self._files = {path: _open(path) for path in shard_paths(folder)}
        self._file_of = {name: path for path, file in self._files.items() for name in file.keys()}  # noqa: SIM118
        self._taken: set[str] = set()
        self._read_bytes, self._total_bytes = 0, sum(path.stat().st_size for path in self._files)

    def has(self, name: str) -> bool:
        return name in self._file_of

    def has_prefix(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._file_of)

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        """The tensor on the device, in `dtype` or the model's; float8 is dequantised by its block scales."""
        path = self._file_of.get(name)
        if path is None:
            raise CheckpointError(
                f"{self._folder}: tensor {name} is missing; the checkpoint is incomplete or config.json belongs to"
                " another model: download both again"
            )
        tensor = self._read(path, name, shape)
        if tensor.dtype == torch.float8_e4m3fn:
            tensor = self._dequantize(name, tensor.to(self.device))
        self._taken.add(name)
        return tensor.to(device=self.device, dtype=dtype or self.dtype)

    def finish(self) -> None:
        """CheckpointError if the files hold tensors that the model did not ask for."""
        left = [n for n in self._file_of if n not in self._taken and not n.endswith(IGNORED_SUFFIXES)]
        if left:
            shown = ", ".join(sorted(left)[:3])
            raise CheckpointError(
                f"{self._file_of[left[0]]}: {len(left)} unexpected tensors ({shown}); config.json describes another"
                " model: download both again"
            )
        if self._progress is not None:
            self._progress(1.0)

    def skip(self, name: str) -> None:
        """Count `name` as used though its values are not needed."""
        self._taken.add(name)

    def _read(self, path: Path, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        view = self._files[path].get_slice(name)
        if tuple(view.get_shape()) != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {list(view.get_shape())}, config.json asks for {list(shape)};"
                " the two belong to different models"
            )
        if view.get_dtype() not in FLOATS:
            raise CheckpointError(
                f"{path}: tensor {name} is {view.get_dtype()}; this engine reads {', '.join(sorted(FLOATS))}"
                " (use --engine vllm for other quantisations)"
            )
        tensor: torch.Tensor = self._files[path].get_tensor(name)
        self._read_bytes += tensor.nbytes
        if self._progress is not None:
            self._progress(min(1.0, self._read_bytes / self._total_bytes))
        return tensor

    def _dequantize(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        scale_shape = tuple(math.ceil(n / FP8_BLOCK) for n in weight.shape)
        scale = self.take(name + SCALE_SUFFIX, scale_shape, torch.float32)
        return dequantize_blocks(weight, scale)


def dequantize_blocks(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float32 weight [N, K] of fp8 values and one scale per block of 128 x 128 (ragged at the far edges)."""
    rows, columns = weight.shape
    per_row = scale.repeat_interleave(FP8_BLOCK, 0)[:rows]
    return weight.float() * per_row.repeat_interleave(FP8_BLOCK, 1)[:, :columns]


def shard_paths(folder: Path) -> list[Path]:
    """Safetensors files of `folder`; CheckpointError if there are none or the index names one that is absent."""
    index = folder / INDEX
    if not index.exists():
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(
                f"{folder}: no .safetensors file; download the weights, or convert them with save_pretrained"
            )
        return paths
    weight_map = read_json(index).need("weight_map")
    paths = sorted({folder / name for name in weight_map.values()})
    for path in paths:
        if not path.exists():
            raise CheckpointError(f"{path}: missing, though {INDEX} lists it; download this shard again")
    return paths


def weights_identity(folder: Path) -> str:
    """Hex digest of config and weights (file sizes, headers, samples): equal for copies of one checkpoint."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in shard_paths(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for offset in (0, size // 2, max(0, size - 65536)):
                file.seek(offset)
                digest.update(file.read(65536))
    return digest.hexdigest()[:16]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error}); download it again") from None
