"""A recorded trace as traffic; a least-recently-used cache of its prefix blocks decides what hits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from proa_operator.bench.trace import BLOCK_TOKENS, read_trace
from proa_operator.bench.workload import RequestPlan
from proa_operator.simulate.traffic import Traffic

CACHE_BLOCKS = 20_000


def trace_traffic(path: Path, seconds: float, cache_blocks: int = CACHE_BLOCKS) -> Traffic:
    """The requests of the first `seconds` of the trace in `path`. Raises TraceError for a file that cannot be read."""
    plans = [plan for plan in read_trace(path).requests if (plan.due_seconds or 0.0) < seconds]
    return Traffic(
        arrival_seconds=np.array([plan.due_seconds for plan in plans], dtype=np.float64),
        prompt_tokens=np.array([plan.input_tokens for plan in plans], dtype=np.int64),
        cached_tokens=np.array(list(_cached(plans, cache_blocks)), dtype=np.int64),
        output_tokens=np.array([plan.output_tokens for plan in plans], dtype=np.int64),
    )


def _cached(plans: Iterable[RequestPlan], cache_blocks: int) -> Iterable[int]:
    cache: OrderedDict[tuple[int, int], None] = OrderedDict()
    for plan in plans:
        keys = [span.key for span in plan.spans]
        misses = (block_idx for block_idx, key in enumerate(keys) if key not in cache)
        num_hits = next(misses, len(keys))
        for key in keys:
            cache[key] = None
            cache.move_to_end(key)
        while len(cache) > cache_blocks:
            cache.popitem(last=False)
        yield min(num_hits * BLOCK_TOKENS, plan.input_tokens - 1)
