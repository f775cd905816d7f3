"""The cost model that explains timed steps best: least squares of relative errors, no coefficient below 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proa_workers.profile.drive import TimedStep

Array = npt.NDArray[np.float64]

COEFFICIENTS = (
    "step_base_seconds",
    "step_experts_seconds",
    "prefill_token_seconds",
    "prefill_pair_seconds",
    "decode_seq_seconds",
    "decode_context_token_seconds",
)
SHARES = (0.0, *(2.0 ** (-k / 4) for k in range(4, 37)))  # 1/2 .. 1/512, a fifth apart
ROUNDS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """`coefficients` are keyed as in `CostModel`, with `expert_share`; `error` is the mean relative error."""

    coefficients: dict[str, float]
    error: float


def fit(steps: Sequence[TimedStep]) -> Fit:
    """The best over all expert shares. ValueError for fewer than ten steps: six numbers would fit anything."""
    if len(steps) < 10:
        raise ValueError(f"{len(steps)} steps are too few to fit {len(COEFFICIENTS)} coefficients")
    seconds = np.array([step.seconds for step in steps])
    fits = [_fit(_columns(steps, share) / seconds[:, None], share) for share in SHARES]
    return min(fits, key=lambda found: found.error)


def _columns(steps: Sequence[TimedStep], share: float) -> Array:
    """What each coefficient is multiplied by, one row a step."""
    tokens = np.array([step.prefill_tokens + step.decode_seqs for step in steps], dtype=np.float64)
    return np.column_stack(
        [
            np.ones(len(steps)),
            1 - (1 - share) ** tokens,
            [step.prefill_tokens for step in steps],
            [step.prefill_pairs for step in steps],
            [step.decode_seqs for step in steps],
            [step.decode_context for step in steps],
        ]
    ).astype(np.float64)


def _fit(relative: Array, share: float) -> Fit:
    solution = non_negative_least_squares(relative, np.ones(len(relative)))
    coefficients = dict(zip(COEFFICIENTS, solution.tolist(), strict=True))
    error = float(np.abs(relative @ solution - 1).mean())
    return Fit(coefficients=coefficients | {"expert_share": share}, error=error)


def non_negative_least_squares(columns: Array, target: Array) -> Array:
    """x >= 0 that minimises |columns x - target|, by coordinate descent: it converges for any convex quadratic."""
    scale = np.sqrt((columns**2).sum(0))
    is_used = scale > 0
    unit = columns[:, is_used] / scale[is_used]
    gram, goal = unit.T @ unit, unit.T @ target
    found = np.zeros(len(goal))
    for _ in range(ROUNDS):
        before = found.copy()
        for j in range(len(found)):
            found[j] = max(0.0, found[j] + goal[j] - gram[j] @ found)
        if np.abs(found - before).max() <= 1e-10 * max(1.0, np.abs(found).max()):
            break
    solution = np.zeros(columns.shape[1])
    solution[is_used] = found / scale[is_used]
    return solution
