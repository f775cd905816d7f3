"""Where answers come from: Prometheus, or in local mode a scrape loop of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from proa_operator.autoscale.queries import Query
from proa_operator.autoscale.readings import Sample
from proa_operator.errors import ProaError

Answers = Mapping[Query, Sequence[Sample]]


class Unanswered(ProaError):
    """The source does not answer, or not all of it: nothing may be concluded for any service."""


class Source(Protocol):
    """Answers all queries at one moment."""

    async def read(self) -> Answers:
        """Raises Unanswered, within a deadline."""
