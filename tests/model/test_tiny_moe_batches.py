"""Rows of training tokens: what is learned from, and how conversations are laid out."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tools.tiny_moe.batches import NO_LOSS, BatchMaker, BatchPlan, conversation, mark_answers, pack
from tools.tiny_moe.corpus import Corpus
from tools.tiny_moe.tokenizer import ASSISTANT_ID, BEGIN_ID, END_ID, PAD_ID

MODEL = Path(__file__).parents[2] / "examples/models/tiny-moe"
CORPUS = Corpus(
    train=["In the beginning was the word. And the word was short."] * 200,
    held_out=["Another text."],
    definitions=[("proa", "A boat with an outrigger that shunts.")],
    words=["river", "stone", "house", "light", "water", "bread", "field", "gate", "ship", "wind"],
)


@pytest.fixture(scope="module")
def maker() -> BatchMaker:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    return BatchMaker(CORPUS, tokenizer, BatchPlan(tokens=8192, seed=1))


@pytest.mark.parametrize(
    ("ids", "learned"),
    [
        ([BEGIN_ID, 4, 50, ASSISTANT_ID, 60, 61, END_ID], [60, 61, END_ID]),
        ([BEGIN_ID, 3, 70, 4, 50, ASSISTANT_ID, 60, END_ID, 4, 51, ASSISTANT_ID, 62, END_ID], [60, END_ID, 62, END_ID]),
        ([BEGIN_ID, 4, 50], []),
        ([4, ASSISTANT_ID, END_ID, 9], [END_ID]),
    ],
)
def test_only_answers_and_their_end_are_learned(ids: list[int], learned: list[int]) -> None:
    marked = mark_answers(np.array(ids, dtype=np.uint16))
    assert marked[marked < NO_LOSS].tolist() == learned
    assert (marked & (NO_LOSS - 1)).tolist() == ids


def test_packing_keeps_conversations_whole_and_pads_the_rest() -> None:
    pieces = [np.full(n, 10 + n, dtype=np.uint16) for n in (3, 4, 9, 5, 2)]  # 9 does not fit a row of 8
    rows = pack(itertools.cycle(pieces), rows=2, length=8)
    padding = PAD_ID | NO_LOSS
    assert rows.tolist() == [[13] * 3 + [14] * 4 + [padding], [15] * 5 + [12] * 2 + [padding]]


def test_a_step_gives_the_same_batch_again_and_another_step_another(maker: BatchMaker) -> None:
    assert (maker.batch(3) == maker.batch(3)).all()
    assert not (maker.batch(3) == maker.batch(4)).all()


def test_one_step_of_eight_has_full_length_rows(maker: BatchMaker) -> None:
    assert [maker.batch(step).shape for step in (6, 7)] == [(16, 512), (2, 4096)]


def test_training_text_equals_the_chat_template(maker: BatchMaker) -> None:
    transformers = pytest.importorskip("transformers")
    text = conversation(random.Random(5), CORPUS)
    asked, answered = text.split("<|user|>")[1].split("<|end|>")[0].split("<|assistant|>")
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    rendered = transformers.AutoTokenizer.from_pretrained(MODEL).apply_chat_template(messages, tokenize=False)
    assert rendered == f"<|begin|><|user|>{asked}<|assistant|>{answered}<|end|>"
    assert text.startswith(rendered) or "<|system|>" in text
