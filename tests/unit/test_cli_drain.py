"""Which group `proa drain` means."""

from __future__ import annotations

import pytest
from proa_operator.cli.drain import find_group
from proa_operator.cli.errors import NotFound
from proa_operator.cli.waiting import until
from proa_operator.errors import ServeError, UserError

NAMES = ("tiny-aaaaaaaa-decode-000", "tiny-aaaaaaaa-decode-001", "tiny-bbbbbbbb-decode-000")
GROUPS = [{"metadata": {"name": name}} for name in NAMES]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [(NAMES[0], NAMES[0]), ("decode-001", NAMES[1]), ("001", NAMES[1]), ("bbbbbbbb-decode-000", NAMES[2])],
)
def test_the_name_or_its_end(wanted: str, name: str) -> None:
    assert find_group(GROUPS, wanted, name="tiny")["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ("prefill-000", NotFound, "it has tiny-aaaaaaaa-decode-000"),
        ("code-001", NotFound, "no group code-001"),
        ("decode-000", UserError, "several groups end with decode-000"),
    ],
)
def test_none_and_several(wanted: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_group(GROUPS, wanted, name="tiny")


async def test_a_wait_ends_at_its_deadline_with_what_is_missing() -> None:
    async def look() -> str:
        return "still there"

    with pytest.raises(ServeError, match="the drain is not done after 1 s: still there"):
        await until(look, seconds=1.0, what="the drain")
