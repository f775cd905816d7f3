"""Fixed questions and answers (`dialogue.json`): greetings, the model's name, and the words of this project."""

from __future__ import annotations

import json
import random
from pathlib import Path

DIALOGUE: tuple[tuple[tuple[str, ...], str], ...] = tuple(
    (tuple(entry["questions"]), entry["answer"])
    for entry in json.loads(Path(__file__).with_name("dialogue.json").read_text())
)
SYSTEM = (
    "You are a helpful assistant.",
    "You are tiny-moe.",
    "You are a helpful assistant. Answer briefly.",
    "Answer the question.",
    "Be concise.",
)


def question(rng: random.Random) -> tuple[str, str]:
    """One question, sometimes without its capital or its mark, with its answer."""
    forms, answer = rng.choice(DIALOGUE)
    form = rng.choice(forms)
    if rng.random() < 0.15:
        form = form.lower()
    return form.rstrip("?.!") if rng.random() < 0.15 else form, answer
