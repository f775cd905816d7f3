"""Engine in plain torch: a decoder over a paged pool, on CPU or GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from proa_workers.core.plan import Sampled, SampleRow, StepOutput, StepPlan
from proa_workers.engine.base import EngineInfo
from proa_workers.engine.device_kv import DeviceKvMemory
from proa_workers.errors import SettingsError
from proa_workers.kv.layout import KvLayout
from proa_workers.kv.memory import HostKvMemory, KvMemory
from proa_workers.model.arms import Arms
from proa_workers.model.assemble import build_batch
from proa_workers.model.config import ModelConfig
from proa_workers.model.decoder import Decoder
from proa_workers.model.hf_config import read_config
from proa_workers.model.loading import load_model
from proa_workers.model.mtp import MtpModule
from proa_workers.model.paged import PagedKv
from proa_workers.model.source import RandomWeights
from proa_workers.model.weights import Progress, weights_identity
from proa_workers.sampling.sampler import Sampler

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HOST_KV_BYTES = 1 << 30
DEVICE_KV_FRACTION = 0.85
# Up to this many token-expert pairs a loop over them beats sorting them, on a CPU (bench/serving/engine_step.py).
CPU_FEW_ROWS = 8


class TokenSampler(Protocol):
    def sample(self, logits_RV: torch.Tensor, rows: Sequence[SampleRow]) -> list[Sampled]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeSettings:
    """`num_blocks` or `kv_bytes` size the pool; with neither, 1 GiB on a host and 85 % of what is free on a device."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    block_tokens: int = 32
    num_blocks: int | None = None
    kv_bytes: int | None = None
    max_model_len: int | None = None


class NativeEngine:
    """Engine (engine/base.py) over one decoder; build it with `from_checkpoint` or `with_random_weights`."""

    def __init__(
        self, info: EngineInfo, decoder: Decoder, kv: KvMemory, pool: torch.Tensor, sampler: TokenSampler, arms: Arms
    ) -> None:
        self.info = info
        self.kv = kv
        self.arms = arms
        self.mtp: tuple[MtpModule, ...] = ()
        self.decoder = decoder
        self._sampler = sampler
        self._paged = PagedKv(pool, kv.layout)

    @classmethod
    def from_checkpoint(
        cls,
        folder: Path,
        settings: NativeSettings,
        progress: Progress | None = None,
        sampler: TokenSampler | None = None,
    ) -> NativeEngine:
        """Load `folder`; CheckpointError for a bad checkpoint, SettingsError for settings it cannot serve."""
        config = read_config(folder)
        device, dtype = resolve(settings, config)
        max_model_len = model_len(settings, config)
        loaded = load_model(
            folder,
            config,
            dtype=DTYPES[dtype],
            device=device,
            max_model_len=max_model_len,
            progress=progress,
        )
        layout = config.kv_layout(
            dtype=dtype, block_tokens=settings.block_tokens, identity=f"native-1:{weights_identity(folder)}"
        )
        engine = cls._assemble(str(folder), loaded.decoder, layout, settings, device, max_model_len, sampler)
        engine.mtp = loaded.mtp
        return engine

    @classmethod
    def with_random_weights(
        cls, config: ModelConfig, settings: NativeSettings, seed: int = 0, sampler: TokenSampler | None = None
    ) -> NativeEngine:
        """Engine for benchmarks: weights are made on the device."""
        device, dtype = resolve(settings, config)
        max_model_len = model_len(settings, config)
        source = RandomWeights(dtype=DTYPES[dtype], device=device, seed=seed)
        decoder = Decoder.load(config, source, max_model_len)
        layout = config.kv_layout(dtype=dtype, block_tokens=settings.block_tokens, identity=f"random-{seed}")
        return cls._assemble("random", decoder, layout, settings, device, max_model_len, sampler)

    @classmethod
    def _assemble(
        cls,
        path: str,
        decoder: Decoder,
        layout: KvLayout,
        settings: NativeSettings,
        device: torch.device,
        max_model_len: int,
        sampler: TokenSampler | None,
    ) -> NativeEngine:
        config = decoder.config
        num_blocks = pool_blocks(settings, layout, device, max_model_len)
        kv, pool = allocate_pool(layout, num_blocks, device)
        info = EngineInfo(
            model_path=path,
            model_type=config.model_type,
            architecture=config.architecture,
            vocab_size=config.vocab_size,
            max_model_len=max_model_len,
            eos_token_ids=config.eos_token_ids,
            bos_token_id=config.bos_token_id,
            pad_token_id=config.pad_token_id,
            dtype=layout.dtype,
            device=str(device),
        )
        sampler = sampler or Sampler(vocab_size=config.vocab_size, device=str(device))
        return cls(info, decoder, kv, pool, sampler, choose_arms(device))

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> StepOutput:
        batch = build_batch(plan, self._paged)
        hidden_TM = self.decoder.forward(batch, self._paged, self.arms)
        sampled: list[Sampled | None] = [None] * len(plan.slices)
        if batch.logit_slices:
            logits_RV = self.decoder.logits(hidden_TM.index_select(0, batch.logit_rows_R))
            rows = [row for i in batch.logit_slices if (row := plan.slices[i].row) is not None]
            for i, token in zip(batch.logit_slices, self._sampler.sample(logits_RV, rows), strict=True):
                sampled[i] = token
        return StepOutput(sampled=tuple(sampled))

    def close(self) -> None:
        self.kv.close()


def choose_arms(device: torch.device) -> Arms:
    """Fast arms of `device`; a host loops over a few pairs, a device never reads ids on the host."""
    return Arms(few_rows=CPU_FEW_ROWS if device.type == "cpu" else 0)


def resolve(settings: NativeSettings, config: ModelConfig) -> tuple[torch.device, str]:
    """Device and dtype name; auto = GPU with the checkpoint's dtype where there is one, else CPU with float32."""
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise SettingsError("device cuda: torch sees no GPU here; use device auto or cpu")
    kind = ("cuda" if has_gpu else "cpu") if settings.device == "auto" else settings.device
    if settings.dtype != "auto":
        return torch.device(kind), settings.dtype
    is_half = kind == "cuda" and config.dtype in ("bfloat16", "float16")
    return torch.device(kind), "bfloat16" if is_half else "float32"


def model_len(settings: NativeSettings, config: ModelConfig) -> int:
    """Longest sequence in tokens; SettingsError if more is asked than the positions that the model knows."""
    if settings.max_model_len is None:
        return config.max_position
    if not 1 <= settings.max_model_len <= config.max_position:
        raise SettingsError(
            f"max_model_len {settings.max_model_len} is out of range; this model serves 1..{config.max_position}"
        )
    return settings.max_model_len


def pool_blocks(settings: NativeSettings, layout: KvLayout, device: torch.device, max_model_len: int) -> int:
    """Blocks of the pool; SettingsError if not even one sequence of `max_model_len` tokens fits."""
    if settings.num_blocks is not None and settings.kv_bytes is not None:
        raise SettingsError("num_blocks and kv_bytes are both set; give one of them")
    if settings.num_blocks is not None:
        num_blocks = settings.num_blocks
    else:
        num_blocks = (settings.kv_bytes or default_kv_bytes(device)) // layout.block_bytes
    needed = -(-max_model_len // layout.block_tokens)
    if num_blocks < needed:
        raise SettingsError(
            f"the KV pool holds {num_blocks} blocks of {layout.block_tokens} tokens, but max_model_len {max_model_len}"
            f" needs {needed}; raise num_blocks or kv_bytes, or lower max_model_len"
        )
    return num_blocks


def default_kv_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return HOST_KV_BYTES
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return int(free_bytes * DEVICE_KV_FRACTION)


def allocate_pool(layout: KvLayout, num_blocks: int, device: torch.device) -> tuple[KvMemory, torch.Tensor]:
    """The pool as bytes and as a tensor [num_blocks, *block_shape] over the same memory; starts as zeros."""
    if device.type != "cpu":
        memory = DeviceKvMemory(layout, num_blocks, DTYPES[layout.dtype], device)
        return memory, memory.pool
    host = HostKvMemory(layout, num_blocks)
    pool = torch.frombuffer(host.buffer, dtype=DTYPES[layout.dtype], count=num_blocks * math.prod(layout.block_shape))
    return host, pool.view(num_blocks, *layout.block_shape)
