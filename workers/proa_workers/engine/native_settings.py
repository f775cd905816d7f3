"""Settings of the native engine, and what they come to on this machine for one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from proa_workers.engine.base import check_pool
from proa_workers.errors import SettingsError
from proa_workers.kv.layout import KvLayout
from proa_workers.model.arms import ExpertsArm
from proa_workers.model.config import ModelConfig

HOST_KV_BYTES = 1 << 30
DEVICE_KV_FRACTION = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeSettings:
    """`num_blocks` or `kv_bytes` size the pool; with neither, 1 GiB on a host and 85 % of what is free on a device.

    `experts` names the implementation of the routed experts (model/arms.py), auto = the fastest that never reads from a
    device. `graphs` auto: 16-bit decode steps run as CUDA graphs where the device has them.
    `look_ahead` auto: a step starts before the host has read the last one's tokens, where that is not the device.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    block_tokens: int = 32
    num_blocks: int | None = None
    kv_bytes: int | None = None
    max_model_len: int | None = None
    graphs: Literal["auto", "off"] = "auto"
    look_ahead: Literal["auto", "on", "off"] = "auto"
    experts: Literal["auto"] | ExpertsArm = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one model runs and in what dtype; `max_model_len` in tokens."""

    device: torch.device
    dtype: str
    max_model_len: int


def place(settings: NativeSettings, config: ModelConfig) -> Placement:
    """Placement of `config`: auto = GPU with the checkpoint's dtype where there is one, else CPU with float32.

    SettingsError without the GPU that was asked for, or for more positions than the model knows.
    """
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise SettingsError("device cuda: torch sees no GPU here; use device auto or cpu")
    kind = ("cuda" if has_gpu else "cpu") if settings.device == "auto" else settings.device
    is_half = kind == "cuda" and config.dtype in ("bfloat16", "float16")
    auto_dtype = "bfloat16" if is_half else "float32"
    length = config.max_position if settings.max_model_len is None else settings.max_model_len
    if not 1 <= length <= config.max_position:
        raise SettingsError(f"max_model_len {length} is out of range; this model serves 1..{config.max_position}")
    return Placement(
        device=torch.device(kind),
        dtype=auto_dtype if settings.dtype == "auto" else settings.dtype,
        max_model_len=length,
    )


def pool_blocks(settings: NativeSettings, layout: KvLayout, placement: Placement) -> int:
    """Blocks of the pool; SettingsError if not even one sequence of the longest length fits."""
    if settings.num_blocks is not None and settings.kv_bytes is not None:
        raise SettingsError("num_blocks and kv_bytes are both set; give one of them")
    if settings.num_blocks is not None:
        num_blocks = settings.num_blocks
    else:
        num_blocks = (settings.kv_bytes or default_kv_bytes(placement.device)) // layout.block_bytes
    check_pool(num_blocks, layout.block_tokens, placement.max_model_len)
    return num_blocks


def default_kv_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return HOST_KV_BYTES
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return int(free_bytes * DEVICE_KV_FRACTION)
