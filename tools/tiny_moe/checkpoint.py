"""Write and read the model folder in the Hugging Face layout of DeepSeek-V3."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.tiny_moe.errors import TinyMoeError
from tools.tiny_moe.model import TinyMoe
from tools.tiny_moe.shape import Shape, hugging_face_config
from tools.tiny_moe.tokenizer import BEGIN_ID, END_ID, PAD_ID

RENAMED = (
    (".mlp.shared.", ".mlp.shared_experts."),
    (".mlp.router", ".mlp.gate.weight"),
    (".mlp.bias", ".mlp.gate.e_score_correction_bias"),
)


def stored_names(name: str, shape: Shape) -> list[str]:
    """The checkpoint's names of one of our parameters: one, or one per expert for a stacked expert matrix."""
    if name.startswith("lm_head."):
        return [name]
    mtp = f"layers.{shape.num_layers}."
    target = re.sub(r"^mtp\.layer\.", mtp, name)
    target = re.sub(r"^mtp\.", mtp, re.sub(r"^mtp\.norm\.", f"{mtp}shared_head.norm.", target))
    for ours, theirs in RENAMED:
        target = target.replace(ours, theirs)
    expert_matrix = re.fullmatch(r"layers\.(\d+)\.mlp\.((?:gate|up|down)_proj\.weight)", target)
    if expert_matrix is None or int(expert_matrix[1]) < shape.num_dense_layers:
        return [f"model.{target}"]
    return [f"model.layers.{expert_matrix[1]}.mlp.experts.{e}.{expert_matrix[2]}" for e in range(shape.num_experts)]


def _stack_axis(name: str) -> int:
    return 1 if ".down_proj." in name else 0


def to_hugging_face(state: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """All checkpoint tensors in bfloat16; the gate's bias stays float32, as it decides between near-equal experts."""
    mtp = f"model.layers.{shape.num_layers}."
    tensors = {
        f"{mtp}embed_tokens.weight": state["embed_tokens.weight"],
        f"{mtp}shared_head.head.weight": state["lm_head.weight"],
    }
    for name, value in state.items():
        names = stored_names(name, shape)
        tensors.update(zip(names, value.chunk(len(names), dim=_stack_axis(name)), strict=True))
    kept = {name: torch.float32 if name.endswith("_bias") else torch.bfloat16 for name in tensors}
    return {name: value.detach().to("cpu", kept[name]).clone().contiguous() for name, value in tensors.items()}


def save_model(model: TinyMoe, folder: Path) -> None:
    """Write `model.safetensors`, `config.json` and `generation_config.json`; the tokenizer has its own command."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_hugging_face(model.state_dict(), model.shape), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hugging_face_config(model.shape), indent=1) + "\n")
    generation = {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID, "pad_token_id": PAD_ID, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")


def load_model(folder: Path) -> TinyMoe:
    """Read a folder that `save_model` wrote, as float32; raises `TinyMoeError` when it is missing or of other sizes."""
    path = folder / "model.safetensors"
    if not path.is_file():
        raise TinyMoeError(f"{path} is missing: run `python -m tools.tiny_moe.train --model {folder}` first")
    stored, model = load_file(path), TinyMoe(Shape())
    state = {}
    for name in model.state_dict():
        parts = [stored[key].float() for key in stored_names(name, model.shape) if key in stored]
        state[name] = torch.cat(parts, dim=_stack_axis(name)) if len(parts) > 1 else parts[0]
    model.load_state_dict(state)
    return model
