"""Checkpoint folder -> decoder and its MTP modules."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from proa_workers.model.config import ModelConfig
from proa_workers.model.decoder import Decoder
from proa_workers.model.mtp import MtpModule
from proa_workers.model.weights import CheckpointReader, Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    decoder: Decoder
    mtp: tuple[MtpModule, ...]


def load_model(
    folder: Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    max_model_len: int,
    progress: Progress | None = None,
) -> LoadedModel:
    """All weights of the checkpoint in `folder`; CheckpointError names the file and tensor that is wrong."""
    reader = CheckpointReader(folder, dtype=dtype, device=device, progress=progress)
    decoder = Decoder.load(config, reader, max_model_len)
    if config.has_tied_embeddings and reader.has("lm_head.weight"):
        reader.skip("lm_head.weight")
    mtp = tuple(MtpModule.load(decoder, reader, depth) for depth in range(_num_mtp_present(config, reader)))
    reader.finish()
    return LoadedModel(decoder=decoder, mtp=mtp)


def _num_mtp_present(config: ModelConfig, reader: CheckpointReader) -> int:
    """MTP modules to load: all that config.json lists, or none where the files leave them out (a common repack)."""
    if config.num_mtp_layers and not reader.has_prefix(f"model.layers.{config.num_layers}."):
        log.warning("checkpoint has no MTP weights; speculative decoding is off", extra={"model": config.model_type})
        return 0
    return config.num_mtp_layers
