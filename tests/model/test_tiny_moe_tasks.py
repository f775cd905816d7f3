"""The generated tasks: right answers by another route, and no way from a held-out instance into training."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

import pytest

from tools.tiny_moe.tasks import FIELDS, TASKS, Example, draw, is_held_out

WORDS = ("river", "stone", "house", "light", "water", "bread", "field", "gate", "ship", "wind", "tree", "king")


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def right_json(example: Example) -> bool:
    """Recomputed from the question: its `field is value` pairs, or the named fields of its object."""
    head, _, tail = example.prompt.partition("{")
    if not tail:
        listed = re.findall(r"(\w+) is (\w+)", example.prompt)
        return bool(json.loads(example.answer) == {f: int(v) if v.isdigit() else v for f, v in listed})
    record = json.loads("{" + tail)
    named = [word for word in head.split() if word in FIELDS]
    return list(json.loads(example.answer).items()) == [(field, record[field]) for field in named]


CHECKS: dict[str, Callable[[Example], bool]] = {
    "copy": lambda e: e.prompt.endswith(e.answer),
    "reverse": lambda e: e.prompt.endswith(" ".join(e.answer.split()[::-1])),
    "sort": lambda e: numbers(e.answer) == sorted(numbers(e.prompt)),
    "add": lambda e: int(e.answer) == sum(numbers(e.prompt)),
    "json": right_json,
}


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_right(task: str) -> None:
    rng = random.Random(1)
    assert all(CHECKS[task](draw(task, rng, WORDS, held_out=rng.random() < 0.5)) for _ in range(300))


@pytest.mark.parametrize("task", TASKS)
def test_the_check_catches_a_wrong_answer(task: str) -> None:
    example = draw(task, random.Random(2), WORDS, held_out=False)
    wrong = {"json": '{"name": "nobody"}', "add": "1"}.get(task, "1 0")
    assert not CHECKS[task](Example(task=task, prompt=example.prompt, answer=wrong, key=example.key))


@pytest.mark.parametrize("task", TASKS)
def test_training_and_held_out_instances_are_disjoint(task: str) -> None:
    rng = random.Random(3)
    trained = {draw(task, rng, WORDS, held_out=False).key for _ in range(2000)}
    tested = {draw(task, rng, WORDS, held_out=True).key for _ in range(200)}
    assert not trained & tested
    assert all(map(is_held_out, tested))


@pytest.mark.parametrize("task", ["add", "sort"])
def test_the_key_does_not_depend_on_order_or_wording(task: str) -> None:
    rng = random.Random(4)
    for _ in range(100):
        example = draw(task, rng, WORDS, held_out=False)
        ordered = sorted(numbers(example.prompt))
        joined = ("|" if task == "add" else ", ").join(map(str, ordered))
        assert example.key == f"{task}|{joined}"
