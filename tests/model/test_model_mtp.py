"""MTP modules: loaded from the layer after the last, and equal to transformers' own decoder layer in that place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from proa_workers.core.plan import SeqSlice, StepPlan
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings
from proa_workers.model.arms import Arms
from proa_workers.model.assemble import build_batch
from proa_workers.model.paged import PagedKv
from safetensors.torch import load_file, save_file

from tests.model.checkpoints import SHAPES, VOCAB, Harness, edit_config, load_oracle, random_ids, shuffled_tables

LAYERS, HIDDEN = 3, 64


@pytest.fixture
def mtp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """A DeepSeek-V3 whose fourth layer is stored as an MTP module; and transformers' four-layer model."""
    from tests.model.checkpoints import build_checkpoint

    prefix, settings = SHAPES["deepseek_v3_yarn"]
    monkeypatch.setitem(SHAPES, "four_layers", (prefix, {**settings, "num_hidden_layers": LAYERS + 1}))
    monkeypatch.setattr("tests.model.checkpoints.COMMON", without_layers())
    build_checkpoint("four_layers", tmp_path)
    four_layers = load_oracle(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    generator, place = torch.Generator().manual_seed(1), f"model.layers.{LAYERS}"
    for name, shape in {"enorm": (HIDDEN,), "hnorm": (HIDDEN,), "eh_proj": (HIDDEN, 2 * HIDDEN)}.items():
        tensors[f"{place}.{name}.weight"] = 0.2 * torch.randn(shape, generator=generator)
    tensors[f"{place}.shared_head.norm.weight"] = torch.rand(HIDDEN, generator=generator)
    tensors[f"{place}.shared_head.head.weight"] = torch.randn(VOCAB, HIDDEN, generator=generator)
    tensors[f"{place}.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    edit_config(tmp_path, num_hidden_layers=LAYERS, num_nextn_predict_layers=1)
    return tmp_path, four_layers


def without_layers() -> dict[str, Any]:
    from tests.model.checkpoints import COMMON

    return {k: v for k, v in COMMON.items() if k != "num_hidden_layers"}


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def reference_logits(folder: Path, four_layers: Any, trunk_TM: torch.Tensor, next_ids: list[int]) -> torch.Tensor:
    tensors, place = load_file(folder / "model.safetensors"), f"model.layers.{LAYERS}"
    embedded = tensors[f"{place}.embed_tokens.weight"][next_ids]
    joined = torch.cat(
        [
            rms_norm(embedded, tensors[f"{place}.enorm.weight"]),
            rms_norm(trunk_TM, tensors[f"{place}.hnorm.weight"]),
        ],
        1,
    )
    x = (joined @ tensors[f"{place}.eh_proj.weight"].T)[None]
    positions = torch.arange(len(next_ids))[None]
    rotary = four_layers.model.rotary_emb(x, position_ids=positions)
    out = four_layers.model.layers[LAYERS](x, attention_mask=None, position_ids=positions, position_embeddings=rotary)
    normed = rms_norm(out[0], tensors[f"{place}.shared_head.norm.weight"])
    return normed @ tensors[f"{place}.shared_head.head.weight"].T


def test_mtp_equals_transformers_layer(mtp_folder: tuple[Path, Any], open_engine: Callable[..., Harness]) -> None:
    folder, four_layers = mtp_folder
    engine = open_engine(folder).engine
    assert len(engine.mtp) == 1
    config = engine.decoder.config
    layout = config.kv_layout(dtype="float32", block_tokens=4, identity="x", num_layers=LAYERS + 1)
    kv = PagedKv(torch.zeros(128, *layout.block_shape), layout)
    ids, (table,) = random_ids(14), shuffled_tables(1)

    with torch.inference_mode():
        drafts = []
        for start, end in ((0, 8), (8, 9), (9, 13)):
            batch = build_batch(plan(ids[start:end], start, table), kv)
            following = build_batch(plan(ids[start + 1 : end + 1], start, table), kv)
            trunk_TM = engine.decoder.forward(batch, kv, Arms())
            rotation = engine.decoder.rotation_of(following)
            hidden_TM = engine.mtp[0].forward(trunk_TM, rotation, following, kv, Arms())
            drafts.append(engine.mtp[0].logits(hidden_TM))
    with torch.no_grad():
        trunk = load_oracle(folder).model(torch.tensor([ids[:13]])).last_hidden_state[0]
        theirs = reference_logits(folder, four_layers, trunk, ids[1:14])
    assert float((torch.cat(drafts) - theirs).abs().max()) <= 1e-4


def plan(ids: list[int], start: int, table: Any) -> StepPlan:
    piece = SeqSlice(seq_id=0, token_ids=ids, start=start, block_table=table, row=None)
    return StepPlan(step_id=0, slices=(piece,))


def test_own_head_is_kept_and_equal_embedding_is_shared(
    mtp_folder: tuple[Path, Any], open_engine: Callable[..., Harness]
) -> None:
    engine = open_engine(mtp_folder[0]).engine
    assert engine.mtp[0].embed_VM is engine.decoder.embed_VM
    assert engine.mtp[0].head_VM is not engine.decoder.head_VM


def test_absent_mtp_weights_are_reported(checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    """transformers saves DeepSeek-V3 without its MTP layer, and config.json still lists it."""
    folder = checkpoint("deepseek_v3")
    engine = NativeEngine.from_checkpoint(folder, NativeSettings(device="cpu", num_blocks=64))
    engine.close()
    assert engine.mtp == ()
    assert "no MTP weights" in caplog.text
