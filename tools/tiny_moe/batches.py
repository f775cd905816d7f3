"""Training batches, each made from its step number alone, so that any number of processes gives the same data.

A batch is (B, S) uint16 token ids; `NO_LOSS` marks tokens that are context only: questions, system lines and padding.
"""

from __future__ import annotations

import collections
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tools.tiny_moe.corpus import Corpus
from tools.tiny_moe.dialogue import SYSTEM, question
from tools.tiny_moe.tasks import draw
from tools.tiny_moe.tokenizer import ASSISTANT_ID, BEGIN, BEGIN_ID, END, END_ID, PAD_ID

Ids = NDArray[np.uint16]
NO_LOSS = 0x8000
# Addition is the hardest and its answers the shortest, so it needs the most examples.
TASK_WEIGHTS = {
    "add": 0.4,
    "sort": 0.12,
    "reverse": 0.14,
    "copy": 0.08,
    "json": 0.17,
    "dialogue": 0.05,
    "definition": 0.04,
    "passage": 0.02,
}
TELL = ("Tell me a story.", "Tell me something.", "Recite a passage.", "Write a few sentences.", "Write something.")
TEXT_SHARE = 0.12  # more repeats the text so often that held-out perplexity rises (0.3: 4.6 trained, 28 held out)
SHORT_LENGTH, LONG_LENGTH, LONG_ONE_IN = 512, 4096, 8
AHEAD = 4  # batches per process made ahead of need
BATCH_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """`tokens` per step: rows of 512, and in one step of eight rows of 4096 (so that 4096 is a length that works)."""

    tokens: int
    seed: int

    def length(self, step: int) -> int:
        return LONG_LENGTH if step % LONG_ONE_IN == LONG_ONE_IN - 1 and self.tokens >= LONG_LENGTH else SHORT_LENGTH


def text_stream(corpus: Corpus, tokenizer: Tokenizer) -> Ids:
    """All training documents, each between begin and end tokens, in reading order."""
    pieces = [[BEGIN_ID, *tokenizer.encode(text).ids, END_ID] for text in corpus.train]
    return np.fromiter((i for piece in pieces for i in piece), dtype=np.uint16)


def passage(rng: random.Random, corpus: Corpus) -> str:
    """Some whole sentences, at most 400 characters, out of a random training document."""
    sentences = re.split(r"(?<=[.!?]) (?=[A-Z])|\n", rng.choice(corpus.train))
    start = rng.randrange(len(sentences))
    text = sentences[start][:400]
    for sentence in sentences[start + 1 :]:
        if len(text) + len(sentence) > 400:
            break
        text = f"{text} {sentence}"
    return text


def turn(rng: random.Random, corpus: Corpus) -> tuple[str, str]:
    """One question and its answer, from the training side only."""
    kind = rng.choices(list(TASK_WEIGHTS), weights=list(TASK_WEIGHTS.values()))[0]
    if kind == "dialogue":
        return question(rng)
    if kind == "definition":
        term, text = rng.choice(corpus.definitions)
        return rng.choice(("Define: {}", "What does {} mean?", "Define {}.")).format(term), text
    if kind == "passage":
        return rng.choice(TELL), passage(rng, corpus)
    example = draw(kind, rng, corpus.words, held_out=False)
    return example.prompt, example.answer


def conversation(rng: random.Random, corpus: Corpus) -> str:
    """One to four turns in the chat template's form, one in ten with a system line."""
    system = f"<|system|>{rng.choice(SYSTEM)}" if rng.random() < 0.1 else ""
    turns = [turn(rng, corpus) for _ in range(rng.choices((1, 2, 3, 4), weights=(6, 2, 1, 1))[0])]
    return BEGIN + system + "".join(f"<|user|>{asked}<|assistant|>{answer}{END}" for asked, answer in turns)


def mark_answers(ids: Ids) -> Ids:
    """Flag everything outside assistant turns; a turn runs from after its assistant token through its end token."""
    places = np.arange(len(ids))
    opened = np.maximum.accumulate(np.where(ids == ASSISTANT_ID, places, -1))
    closed = np.maximum.accumulate(np.where(ids == END_ID, places, -1))
    before = np.concatenate(([-1], closed[:-1]))
    is_answer = (opened > before) & (ids != ASSISTANT_ID)
    return np.where(is_answer, ids, ids | NO_LOSS).astype(np.uint16)


def pack(conversations: Iterator[Ids], rows: int, length: int) -> Ids:
    """Fill rows with whole conversations, first come first placed; a conversation longer than a row is dropped."""
    out = np.full((rows, length), PAD_ID | NO_LOSS, dtype=np.uint16)
    row = used = 0
    for ids in conversations:
        if len(ids) > length:
            continue
        if used + len(ids) > length:
            row, used = row + 1, 0
            if row == rows:
                break
        out[row, used : used + len(ids)] = ids
        used += len(ids)
    return out


class BatchMaker:
    """Makes the batch of any step."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, plan: BatchPlan) -> None:
        self.corpus, self.tokenizer, self.plan = corpus, tokenizer, plan
        self.stream = text_stream(corpus, tokenizer)

    def conversations(self, rng: random.Random) -> Iterator[Ids]:
        while True:
            ids = self.tokenizer.encode(conversation(rng, self.corpus)).ids
            yield mark_answers(np.array(ids, dtype=np.uint16))

    def batch(self, step: int) -> Ids:
        rng = random.Random(f"{self.plan.seed}/{step}")
        length = self.plan.length(step)
        rows = self.plan.tokens // length
        text_rows = round(rows * TEXT_SHARE)
        starts = [rng.randrange(len(self.stream) - length) for _ in range(text_rows)]
        text = [self.stream[start : start + length] for start in starts]
        return np.stack([*text, *pack(self.conversations(rng), rows - text_rows, length)])


_maker: BatchMaker | None = None  # set in each worker process before its first batch


def _adopt(maker: BatchMaker) -> None:
    global _maker
    _maker = maker


def _make(step: int) -> Ids:
    assert _maker is not None
    return _maker.batch(step)


def batches(maker: BatchMaker, steps: int, processes: int) -> Iterator[Ids]:
    """Batches of all `steps` in order, made a little ahead by forked processes; take the first before CUDA starts."""
    with get_context("fork").Pool(processes, _adopt, (maker,)) as pool:
        pending = collections.deque(pool.apply_async(_make, (step,)) for step in range(min(steps, AHEAD * processes)))
        for step in range(len(pending), steps + len(pending)):
            yield pending.popleft().get(timeout=BATCH_SECONDS)
            if step < steps:
                pending.append(pool.apply_async(_make, (step,)))
