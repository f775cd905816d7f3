"""Replay of a production trace in the format published with Mooncake (FAST'25).

One JSON object a line: `timestamp` (ms), `input_length`, `output_length` (tokens) and `hash_ids`, one id for each
prefix block of 512 tokens (the last block may be shorter). Equal ids mean equal text up to and including the block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proa_operator.bench.errors import TraceError
from proa_operator.bench.workload import SHARED, PromptSpan, RequestPlan, scaled

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceWorkload:
    """Recorded requests at recorded times; the seed picks the words only."""

    requests: tuple[RequestPlan, ...]
    name: str = "trace"

    def plans(self, seed: int) -> Iterator[RequestPlan]:
        return iter(self.requests)


def read_trace(path: Path, *, scale: float = 1.0, rate: float | None = None) -> TraceWorkload:
    """Reads a trace; lengths are multiplied by `scale`, times stretched so that the mean rate is `rate` per second.

    Raises TraceError for a file that is missing, empty, or malformed; the message has the line number.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the trace {path}: {error}; give a readable JSON Lines file") from error
    plans = tuple(_plan(path, request_idx, line, scale) for request_idx, line in enumerate(lines))
    if not plans:
        raise TraceError(f"the trace {path} is empty; give a file with one JSON object a line")
    return TraceWorkload(requests=_stretch(plans, rate))


def _plan(path: Path, request_idx: int, line: str, scale: float) -> RequestPlan:
    try:
        entry: dict[str, Any] = json.loads(line)
        num_in, num_out = int(entry["input_length"]), int(entry["output_length"])
        hash_ids = [int(hash_id) for hash_id in entry["hash_ids"]]
        due_seconds = float(entry["timestamp"]) / 1000
    except (ValueError, KeyError, TypeError) as error:
        fields = "timestamp, input_length, output_length, hash_ids"
        raise TraceError(f"{path} line {request_idx + 1}: {error!r}; each line needs {fields}") from error
    if num_in < 1 or num_out < 1 or len(hash_ids) != -(-num_in // BLOCK_TOKENS):
        blocks = f"one hash id for each {BLOCK_TOKENS} input tokens"
        raise TraceError(f"{path} line {request_idx + 1}: lengths must be positive, with {blocks}")
    return RequestPlan(
        request_idx=request_idx,
        spans=tuple(_spans(hash_ids, num_in, scale)),
        output_tokens=scaled(num_out, scale),
        due_seconds=due_seconds,
    )


def _spans(hash_ids: list[int], num_in: int, scale: float) -> Iterator[PromptSpan]:
    for block_idx, hash_id in enumerate(hash_ids):
        num_tokens = min(BLOCK_TOKENS, num_in - block_idx * BLOCK_TOKENS)
        yield PromptSpan(key=(SHARED, hash_id), num_tokens=scaled(num_tokens, scale))


def _stretch(plans: tuple[RequestPlan, ...], rate: float | None) -> tuple[RequestPlan, ...]:
    """Starts at zero; sorts by time; with `rate`, multiplies all gaps by one factor."""
    ordered = sorted(plans, key=_due)
    first, span = _due(ordered[0]), _due(ordered[-1]) - _due(ordered[0])
    factor = (len(ordered) - 1) / rate / span if rate and span else 1.0
    return tuple(replace(plan, due_seconds=(_due(plan) - first) * factor) for plan in ordered)


def _due(plan: RequestPlan) -> float:
    assert plan.due_seconds is not None
    return plan.due_seconds
