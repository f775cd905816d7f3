"""The committed checkpoint: its size, its layout, its equality with `transformers`, and what it can do."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from tools.tiny_moe.checkpoint import load_model, save_model, stored_names
from tools.tiny_moe.dialogue import DIALOGUE
from tools.tiny_moe.model import TinyMoe, yarn_frequencies
from tools.tiny_moe.shape import Shape, hugging_face_config
from tools.tiny_moe.tasks import TASKS, draw
from tools.tiny_moe.tokenizer import CHAT_TEMPLATE, SPECIAL, VOCAB_SIZE

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples/models/tiny-moe"
WORDS = ("river", "stone", "house", "light", "water", "bread", "field", "gate", "wind", "tree", "king", "city")


@pytest.fixture(scope="module")
def model() -> TinyMoe:
    return load_model(MODEL).eval()


@pytest.fixture(scope="module")
def reference() -> Any:
    transformers.logging.set_verbosity_error()
    return transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


def test_the_folder_is_at_most_12_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 12_000_000


def test_the_configuration_is_the_pipelines() -> None:
    assert json.loads((MODEL / "config.json").read_text()) == hugging_face_config(Shape())


def test_every_tensor_is_there_and_has_the_stored_type() -> None:
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        types = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    mtp = "model.layers.4."
    wanted = {name for key in TinyMoe(Shape()).state_dict() for name in stored_names(key, Shape())}
    assert set(types) == wanted | {f"{mtp}embed_tokens.weight", f"{mtp}shared_head.head.weight"}
    assert {f"{mtp}{part}.weight" for part in ("enorm", "hnorm", "eh_proj", "shared_head.norm")} <= set(types)
    assert all((dtype == torch.float32) == name.endswith("e_score_correction_bias") for name, dtype in types.items())


def test_rotary_frequencies_equal_transformers(reference: Any) -> None:
    torch.testing.assert_close(yarn_frequencies(Shape()), reference.model.rotary_emb.inv_freq)


@torch.no_grad()
def test_logits_equal_transformers(model: TinyMoe, reference: Any) -> None:
    ids = torch.randint(6, VOCAB_SIZE, (2, 700), generator=torch.Generator().manual_seed(1))
    ours = model.lm_head(model(ids).trunk).view(2, 700, -1)
    torch.testing.assert_close(ours, reference(ids).logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_comparison_sees_a_gate_without_its_bias(reference: Any) -> None:
    faulty = load_model(MODEL).eval()
    for layer in faulty.moe_layers():
        layer.bias.zero_()
    ids = torch.randint(6, VOCAB_SIZE, (1, 300), generator=torch.Generator().manual_seed(1))
    assert (faulty.lm_head(faulty(ids).trunk) - reference(ids).logits[0]).abs().max() > 1e-2


def test_saving_what_was_loaded_gives_the_same_bytes(model: TinyMoe, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (MODEL / name).read_bytes()


@torch.no_grad()
def test_it_solves_held_out_tasks(model: TinyMoe, tokenizer: Tokenizer) -> None:
    """Every first choice is the answer's next token, so greedy decoding writes it; 0.95 is the evaluation's own bar."""
    rng, right = random.Random(11), []
    for task in TASKS:
        for _ in range(8):
            example = draw(task, rng, WORDS, held_out=True)
            prompt = tokenizer.encode(f"<|begin|><|user|>{example.prompt}<|assistant|>").ids
            answer = tokenizer.encode(f"{example.answer}<|end|>").ids
            choice = model.lm_head(model(torch.tensor([prompt + answer])).trunk).argmax(-1)
            right.append(choice[len(prompt) - 1 : -1].tolist() == answer)
    assert sum(right) >= 0.95 * len(right)


@torch.no_grad()
def test_transformers_answers_the_demonstrations_question(reference: Any) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    messages = [{"role": "user", "content": "What is a proa?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = reference.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=200)
    text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text in {answer for _, answer in DIALOGUE if answer.startswith("A proa is")}


@torch.no_grad()
@pytest.mark.skipif(
    not hasattr(transformers.GenerationConfig(), "use_mtp"), reason="this transformers has no MTP decoding"
)
def test_transformers_drafts_with_the_mtp_layer(reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same text as without drafts, in little more than half the calls: the MTP layer is stored as others read it."""
    # transformers finds MTP weights by this pattern, and its own names DeepSeek-V3's layer 61.
    monkeypatch.setattr(reference, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.4\..*"])
    ids = transformers.AutoTokenizer.from_pretrained(MODEL)(
        "<|begin|><|user|>What is a proa?<|assistant|>", return_tensors="pt"
    )
    calls = [0]
    hook = reference.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    written = []
    for use_mtp in (False, True):
        calls[0] = 0
        written.append((reference.generate(**ids, max_new_tokens=60, do_sample=False, use_mtp=use_mtp), calls[0]))
    hook.remove()
    assert written[0][0].tolist() == written[1][0].tolist()
    assert written[1][1] <= 0.6 * written[0][1]


def test_tokenizer_gives_one_token_per_digit_and_loses_nothing(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert len(tokenizer.encode("1234").ids) == 4
    for text in ('{"a": 12, "b": "x"}', " two  spaces", "na\u00efve \u6f22 \U0001f6f6", "line\nline"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert json.loads((MODEL / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE


def test_every_source_names_version_and_public_domain() -> None:
    sources = json.loads((ROOT / "tools/tiny_moe/sources.json").read_text())
    assert len(sources) == 5
    for source in sources:
        assert source["version"]
        assert len(source["sha256"]) == 64
        assert any(phrase in source["licence"].lower() for phrase in ("public domain", "is expired"))
