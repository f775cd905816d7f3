"""Engine in plain torch: a decoder over a paged pool, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from proa_kernels.arch import has_kernels_for

from proa_workers.core.plan import Sampled, SampleRow, StepOutput, StepPlan
from proa_workers.engine.base import EngineInfo, Flight
from proa_workers.engine.device_kv import DTYPES, allocate_pool
from proa_workers.engine.native_settings import NativeSettings, Placement, place, pool_blocks
from proa_workers.errors import SettingsError
from proa_workers.model.arms import Arms, ExpertsArm
from proa_workers.model.assemble import build_batch, put_unread
from proa_workers.model.config import ModelConfig
from proa_workers.model.decoder import Decoder
from proa_workers.model.experts import check_experts
from proa_workers.model.graphs import DecodeGraphs, fits_graph
from proa_workers.model.hf_config import read_config
from proa_workers.model.loading import load_model
from proa_workers.model.moe import check_gate
from proa_workers.model.mtp import MtpModule
from proa_workers.model.paged import PagedKv
from proa_workers.model.source import RandomWeights
from proa_workers.model.weights import Progress, weights_identity
from proa_workers.sampling.sampler import Drawn, Sampler
from proa_workers.sampling.upload import upload

# Measured on an H200 for DeepSeek-V2-Lite (bench/kernels/NOTES.md): at 32 tokens shared experts cost less as riders.
DENSE_SHARED_TOKENS = 96


class TokenSampler(Protocol):
    def launch(self, logits_RV: torch.Tensor, rows: Sequence[SampleRow], unread: Sequence[int] = ()) -> Drawn: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NativeFlight:
    """`wanted[r]` is the slice of row r of `drawn`."""

    plan: StepPlan
    wanted: tuple[int, ...]
    drawn: Drawn | None

    def read(self) -> StepOutput:
        sampled: list[Sampled | None] = [None] * len(self.plan.slices)
        if self.drawn is not None:
            for i, token in zip(self.wanted, self.drawn.read(), strict=True):
                sampled[i] = token
        return StepOutput(sampled=tuple(sampled))

    def tokens_of_slices(self) -> torch.Tensor:
        """Token of every slice of the plan, int64 [S] on the device; 0 for those that sample nothing."""
        num_slices = len(self.plan.slices)
        assert self.drawn is not None, "a plan made ahead of one that samples nothing"
        token_R = self.drawn.token_R1[:, 0]
        if self.wanted == tuple(range(num_slices)):
            return token_R
        index_R = upload(np.array(self.wanted, dtype=np.int64), token_R.device)
        return token_R.new_zeros(num_slices).index_copy_(0, index_R, token_R)


class NativeEngine:
    """Engine (engine/base.py) over one decoder; build it with `from_checkpoint` or `with_random_weights`."""

    def __init__(
        self,
        decoder: Decoder,
        settings: NativeSettings,
        placement: Placement,
        *,
        model_path: str,
        identity: str,
        sampler: TokenSampler | None = None,
        mtp: tuple[MtpModule, ...] = (),
    ) -> None:
        """`identity` names the weights (only equal ones exchange blocks); `sampler` None takes the real one."""
        config, device = decoder.config, placement.device
        layout = config.kv_layout(dtype=placement.dtype, block_tokens=settings.block_tokens, identity=identity)
        self.kv, pool = allocate_pool(layout, pool_blocks(settings, layout, placement), device)
        self.info = engine_info(config, placement, model_path)
        self.arms = choose_arms(settings, placement)
        self.decoder = decoder
        self.mtp = mtp
        self.looks_ahead = settings.look_ahead == "on" or (settings.look_ahead == "auto" and device.type != "cpu")
        self._sampler = sampler or Sampler(
            vocab_size=config.vocab_size, device=str(device), keeps_history=self.looks_ahead or device.type != "cpu"
        )
        self._paged = PagedKv(pool, layout)
        # NOTE: torch's grouped product of float32 reads group sizes on the host, which no graph can hold.
        can_capture = placement.dtype == "bfloat16" and self.arms.experts in ("grouped", "fused")
        has_graphs = device.type == "cuda" and can_capture and settings.graphs == "auto"
        self.graphs = DecodeGraphs(decoder, self._paged, self.arms) if has_graphs else None

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
        placement = place(settings, config)
        try:
            loaded = load_model(
                folder,
                config,
                dtype=DTYPES[placement.dtype],
                device=placement.device,
                max_model_len=placement.max_model_len,
                progress=progress,
            )
        except torch.OutOfMemoryError:
            raise SettingsError(f"the weights in {folder} do not fit on {placement.device}; use a larger GPU") from None
        identity = f"native-1:{weights_identity(folder)}"
        return cls(
            loaded.decoder,
            settings,
            placement,
            model_path=str(folder),
            identity=identity,
            sampler=sampler,
            mtp=loaded.mtp,
        )

    @classmethod
    def with_random_weights(
        cls, config: ModelConfig, settings: NativeSettings, seed: int = 0, sampler: TokenSampler | None = None
    ) -> NativeEngine:
        """Engine for benchmarks: weights are made on the device."""
        placement = place(settings, config)
        source = RandomWeights(dtype=DTYPES[placement.dtype], device=placement.device, seed=seed)
        decoder = Decoder.load(config, source, placement.max_model_len)
        return cls(
            decoder, settings, placement, model_path="random", identity=f"native-1:random-{seed}", sampler=sampler
        )

    def step(self, plan: StepPlan) -> StepOutput:
        return self.launch(plan, None).read()

    @torch.inference_mode()
    def launch(self, plan: StepPlan, before: Flight | None) -> NativeFlight:
        """Starts a step without waiting for the device; unread tokens of `plan` are those of the flight `before`."""
        is_unread = [piece.is_unread for piece in plan.slices]
        unread_S = None
        if any(is_unread):
            assert isinstance(before, NativeFlight), "a plan made ahead follows a step of this engine"
            unread_S = before.tokens_of_slices()
        logits_RV, wanted = self._logits(plan, unread_S)
        if not wanted:
            return NativeFlight(plan=plan, wanted=(), drawn=None)
        rows = [row for i in wanted if (row := plan.slices[i].row) is not None]
        drawn = self._sampler.launch(logits_RV, rows, [int(is_unread[i]) for i in wanted])
        return NativeFlight(plan=plan, wanted=wanted, drawn=drawn)

    def _logits(self, plan: StepPlan, unread_S: torch.Tensor | None) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Logits of the wanted rows, and the slice of each."""
        if self.graphs is not None and fits_graph(plan.slices, self.arms):
            logits_RV = self.graphs.logits(plan.slices, unread_S)
            if logits_RV is not None:
                return logits_RV, tuple(range(len(plan.slices)))
        batch = build_batch(plan, self._paged, self.arms.attention != "paged")
        if unread_S is not None:
            put_unread(batch.token_ids_T, unread_S, is_all=False)
        hidden_TM = self.decoder.forward(batch, self._paged, self.arms)
        return self.decoder.logits(hidden_TM.index_select(0, batch.logit_rows_R)), batch.logit_slices

    def close(self) -> None:
        self.kv.close()


def engine_info(config: ModelConfig, placement: Placement, model_path: str) -> EngineInfo:
    """What the gateway and the metrics are told of the model; `model_path` also locates the tokenizer."""
    return EngineInfo(
        model_path=model_path,
        model_type=config.model_type,
        architecture=config.architecture,
        vocab_size=config.vocab_size,
        max_model_len=placement.max_model_len,
        eos_token_ids=config.eos_token_ids,
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        dtype=placement.dtype,
        device=str(placement.device),
    )


def choose_arms(settings: NativeSettings, placement: Placement) -> Arms:
    """Arms for this device, tried once; SettingsError if they do not run or are wrong here."""
    has_kernels = placement.dtype != "float32" and has_kernels_for(placement.device)
    fastest: ExpertsArm = "fused" if has_kernels else "grouped"
    experts = fastest if settings.experts == "auto" else settings.experts
    # A loop over one token's experts reads their ids on the host: free on a CPU, and there faster than sorting.
    is_looped = placement.device.type == "cpu" and settings.experts == "auto"
    single: ExpertsArm = "looped" if is_looped else experts
    if has_kernels:
        dense = DENSE_SHARED_TOKENS if experts == "fused" else None
        arms = Arms(attention="paged", norm="fused", gate="fused", experts=experts, single=single, dense_shared=dense)
    else:
        arms = Arms(experts=experts, single=single)
    check_experts(arms.experts, DTYPES[placement.dtype], placement.device)
    check_gate(arms, DTYPES[placement.dtype], placement.device)
    return arms
