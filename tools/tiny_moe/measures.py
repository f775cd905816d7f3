"""What the evaluation measures with one forward pass per row: perplexity, drafts and answers deep inside a long row.

An answer whose every token is the model's first choice, given the answer's own earlier tokens, is exactly what greedy
decoding writes; so exact match needs no generation loop here. Shapes: B rows, S positions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.tiny_moe.batches import NO_LOSS, Ids, mark_answers, pack
from tools.tiny_moe.corpus import Corpus
from tools.tiny_moe.model import TinyMoe
from tools.tiny_moe.tasks import draw
from tools.tiny_moe.tokenizer import BEGIN, BEGIN_ID, END, END_ID, MAX_LENGTH

BUCKETS = ((0, 511), (512, 2047), (2048, MAX_LENGTH - 1))  # first and last position


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """First choices of the trunk (next token) and of the MTP layer (the one after), and the trunk's loss; (B, S)."""

    choice: Tensor
    draft: Tensor
    loss: Tensor


@torch.no_grad()
def predict(model: TinyMoe, ids_BS: Tensor) -> Predictions:
    """Row by row, so that CPU memory stays small."""
    choices, drafts, losses = [], [], []
    for row, ids in enumerate(ids_BS):
        out = model(ids_BS[row : row + 1])
        logits = model.lm_head(out.trunk).float()
        choices.append(logits.argmax(-1))
        drafts.append(model.lm_head(out.mtp).argmax(-1))
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none"))
    return Predictions(choice=torch.stack(choices), draft=torch.stack(drafts), loss=torch.stack(losses))


def text_rows(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> tuple[Tensor, float]:
    """Held-out documents end to end as (B, length) int64, and their mean bytes per token."""
    ids = [i for text in texts for i in (BEGIN_ID, *tokenizer.encode(text).ids, END_ID)]
    rows = len(ids) // length
    return torch.tensor(ids[: rows * length]).view(rows, length), sum(len(t.encode()) for t in texts) / len(ids)


def measure_text(model: TinyMoe, rows_BS: Tensor, bytes_per_token: float) -> dict[str, object]:
    """Perplexity (also by position), bits per byte, and how often the MTP draft is right and agrees with the trunk."""
    seen = predict(model, rows_BS)
    by_position = {f"{low}-{high}": round(math.exp(float(seen.loss[:, low:high].mean())), 2) for low, high in BUCKETS}
    mean = float(seen.loss.mean())
    return {
        "tokens": rows_BS.numel(),
        "perplexity": round(math.exp(mean), 3),
        "bits_per_byte": round(mean / math.log(2) / bytes_per_token, 3),
        "perplexity_by_position": by_position,
        "next_token_accuracy": round(float((seen.choice[:, :-1] == rows_BS[:, 1:]).float().mean()), 4),
        "mtp_accuracy": round(float((seen.draft[:, :-2] == rows_BS[:, 2:]).float().mean()), 4),
        "mtp_agrees_with_trunk": round(float((seen.draft[:, :-2] == seen.choice[:, 1:-1]).float().mean()), 4),
    }


def held_out_rows(corpus: Corpus, tokenizer: Tokenizer, rows: int, seed: int, tasks: Sequence[str]) -> Ids:
    """Full-length rows of held-out questions of `tasks` in turn, each a conversation of its own."""
    rng = random.Random(f"{seed}/{'/'.join(tasks)}")

    def conversations() -> Iterator[Ids]:
        while True:
            for task in tasks:
                example = draw(task, rng, corpus.words, held_out=True)
                text = f"{BEGIN}<|user|>{example.prompt}<|assistant|>{example.answer}{END}"
                yield mark_answers(np.array(tokenizer.encode(text).ids, dtype=np.uint16))

    return pack(conversations(), rows, MAX_LENGTH)


def answers(row_S: Tensor) -> list[tuple[int, int]]:
    """(first, past-last) positions of each answer of one marked row."""
    is_answer = (row_S < NO_LOSS).int()
    edges = torch.diff(is_answer, prepend=torch.zeros(1, dtype=torch.int32, device=row_S.device))
    starts = (edges == 1).nonzero().flatten().tolist()
    ends = (edges == -1).nonzero().flatten().tolist()
    return list(zip(starts, ends, strict=False))


def exact_matches(choice_S: Tensor, marked_S: Tensor) -> list[tuple[int, bool]]:
    """(position, whether the model's first choices are the whole answer) of each answer of one row."""
    ids_S = marked_S & (NO_LOSS - 1)
    return [
        (start, bool((choice_S[start - 1 : end - 1] == ids_S[start:end]).all())) for start, end in answers(marked_S)
    ]


def measure_long_rows(model: TinyMoe, marked_BS: Tensor) -> dict[str, object]:
    """Exact match of answers by where in the row they stand, and the MTP layer's accuracy inside answers."""
    ids = marked_BS & (NO_LOSS - 1)
    seen = predict(model, ids)
    right: dict[str, list[bool]] = {f"{low}-{high}": [] for low, high in BUCKETS}
    drafts: list[bool] = []
    for row, marked in enumerate(marked_BS):
        for start, is_right in exact_matches(seen.choice[row], marked):
            right[next(f"{low}-{high}" for low, high in BUCKETS if low <= start <= high)].append(is_right)
        for start, end in answers(marked):
            drafts += (seen.draft[row, start - 1 : end - 2] == ids[row, start + 1 : end]).tolist()
    return {
        "answers": sum(map(len, right.values())),
        "exact_match_by_position": {bucket: round(sum(hits) / len(hits), 4) for bucket, hits in right.items() if hits},
        "mtp_accuracy_in_answers": round(sum(drafts) / len(drafts), 4),
    }
