"""When an output ends: by its grammar where an end token is not to end it."""

from __future__ import annotations

from typing import Any

import pytest
from proa_workers.core.outcome import Finish, judge
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import Sampled, SampleRow
from proa_workers.core.sequence import Sequence

EOS = 2


class Word:
    """A grammar of so many tokens."""

    failure: str | None = None

    def __init__(self, length: int) -> None:
        self.left = length

    def fill_mask(self, row: Any) -> bool:
        return False

    def accept(self, token_id: int) -> None:
        self.left -= 1

    def is_finished(self) -> bool:
        return self.left <= 0


def ends(tokens: list[int], **params: Any) -> list[Finish | None]:
    """What `judge` says after each token of a grammar of two."""
    asked = SamplingParams(max_tokens=10, **params)
    row = SampleRow(params=asked, seed=0, prompt_ids=[5], output_ids=[], eos_token_ids=(EOS,), grammar=Word(2))
    seq = Sequence(seq_id=1, request_id="r", row=row)
    return [judge(seq, Sampled(token_id=token), 100).finish for token in tokens]


STOP = Finish(reason="stop")


@pytest.mark.parametrize(
    ("tokens", "params", "finishes"),
    [
        ([7, 8, EOS], {}, [None, None, STOP]),
        ([7, 8], {"ignore_eos": True}, [None, STOP]),
        ([7, 8], {"min_tokens": 5}, [None, STOP]),
        ([7, 8, EOS], {"min_tokens": 2}, [None, None, STOP]),
    ],
)
def test_a_finished_grammar_ends_an_output_that_no_end_token_may_end(
    tokens: list[int], params: dict[str, Any], finishes: list[Finish | None]
) -> None:
    assert ends(tokens, **params) == finishes
