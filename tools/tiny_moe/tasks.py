"""Generated tasks with exact answers, and the rule that keeps some of their instances out of training.

An instance is held out by the hash of its content, not of its wording: no phrasing of a held-out instance is trained,
nor `b + a` when `a + b` is held out, nor another order of the numbers to sort.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HELD_OUT_ONE_IN = 20
FIELDS = (
    "name",
    "age",
    "city",
    "color",
    "size",
    "price",
    "count",
    "id",
    "kind",
    "owner",
    "year",
    "day",
    "tool",
    "food",
    "tree",
    "river",
)
NUMERIC = {"age", "price", "count", "id", "year", "size"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question with its only right answer; `key` names the instance independent of wording."""

    task: str
    prompt: str
    answer: str
    key: str


def is_held_out(key: str) -> bool:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def copy(rng: random.Random, words: Sequence[str]) -> Example:
    """3 to 10 words, repeated in order."""
    items = " ".join(rng.choices(words, k=rng.randint(3, 10)))
    form = rng.choice(
        (
            "Repeat these words: {}",
            "Copy: {}",
            "Say this back to me: {}",
            "Repeat after me: {}",
            "Copy this text exactly: {}",
        )
    )
    return Example(task="copy", prompt=form.format(items), answer=items, key=f"copy|{items}")


def reverse(rng: random.Random, words: Sequence[str]) -> Example:
    """3 to 8 different words, last first."""
    items = rng.sample(words, rng.randint(3, 8))
    form = rng.choice(
        (
            "Reverse the order of these words: {}",
            "Reverse: {}",
            "Write these words backwards, last one first: {}",
            "Reverse this list: {}",
        )
    )
    line = " ".join(items)
    return Example(task="reverse", prompt=form.format(line), answer=" ".join(reversed(items)), key=f"reverse|{line}")


def sort(rng: random.Random, words: Sequence[str]) -> Example:
    """3 to 8 different numbers of 0 to 99, smallest first."""
    items = rng.sample(range(100), rng.randint(3, 8))
    form = rng.choice(
        (
            "Sort these numbers: {}",
            "Sort: {}",
            "Put these numbers in order, smallest first: {}",
            "Sort this list of numbers in ascending order: {}",
        )
    )
    ordered = ", ".join(map(str, sorted(items)))
    return Example(task="sort", prompt=form.format(", ".join(map(str, items))), answer=ordered, key=f"sort|{ordered}")


def add(rng: random.Random, words: Sequence[str]) -> Example:
    """Two numbers of 1 to 4 digits each; every length is as likely as another."""
    a, b = (rng.randrange(10 ** rng.randint(1, 4)) for _ in range(2))
    form = rng.choice(
        (
            "What is {} + {}?",
            "Add {} and {}.",
            "{} + {} =",
            "Calculate {} + {}.",
            "What is the sum of {} and {}?",
            "How much is {} plus {}?",
        )
    )
    return Example(task="add", prompt=form.format(a, b), answer=str(a + b), key=f"add|{min(a, b)}|{max(a, b)}")


def json_object(rng: random.Random, words: Sequence[str]) -> Example:
    """Two to four fields: write them as an object, or (one time in three) copy one or two of them out of an object."""
    fields = rng.sample(FIELDS, rng.randint(2, 4))
    record = {field: rng.randrange(1, 1000) if field in NUMERIC else rng.choice(words) for field in fields}
    text = json.dumps(record)
    if rng.random() < 1 / 3:
        wanted = rng.sample(fields, rng.randint(1, 2))
        form = rng.choice(("Keep only {} of {}", "Take {} from {}", "Return a JSON object with only {} of {}"))
        answer = json.dumps({field: record[field] for field in wanted})
        return Example(task="json", prompt=form.format(" and ".join(wanted), text), answer=answer, key=f"json|{text}")
    listed = ", ".join(f"{field} is {value}" for field, value in record.items())
    form = rng.choice(
        ("Make a JSON object: {}.", "Write this as JSON: {}.", "Return a JSON object where {}.", "Convert to JSON: {}.")
    )
    return Example(task="json", prompt=form.format(listed), answer=text, key=f"json|{text}")


TASKS: dict[str, Callable[[random.Random, Sequence[str]], Example]] = {
    "copy": copy,
    "reverse": reverse,
    "sort": sort,
    "add": add,
    "json": json_object,
}


def draw(task: str, rng: random.Random, words: Sequence[str], *, held_out: bool) -> Example:
    """A random instance of `task` from the training side or the held-out side."""
    while True:
        example = TASKS[task](rng, words)
        if is_held_out(example.key) == held_out:
            return example
