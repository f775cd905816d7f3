"""What every test draws from without a seed is the same in each run."""

from __future__ import annotations

import hypothesis
import pytest
import torch

FIRST: list[list[float]] = []


@pytest.mark.parametrize("turn", range(2))
def test_torch_begins_anew_in_each_test(turn: int) -> None:
    FIRST.append(torch.rand(4).tolist())
    assert FIRST[turn] == FIRST[0]


def test_no_example_depends_on_the_clock_or_on_chance() -> None:
    chosen = hypothesis.settings()
    assert chosen.deadline is None
    assert chosen.derandomize
