"""Sampling of one row in plain float64, written to be read: the twin that tests compare `sampler.py` with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proa_workers.core.plan import SampleRow
from proa_workers.sampling.draw import GOLDEN, MASK_64, mix64_int
from proa_workers.sampling.sampler import MIN_TEMPERATURE

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReferenceDraw:
    """`margin` is the distance of the draw from the nearest edge of the token's interval of the CDF (1 when greedy)."""

    token_id: int
    probs: F64
    logprobs: F64
    margin: float


def sample_reference(logits_V: Sequence[float] | F64, row: SampleRow) -> ReferenceDraw:
    """What `Sampler.sample` must return for this row; `probs` is the distribution that the token is drawn from."""
    raw_V = np.array(logits_V, dtype=np.float64)
    edited_V = edit(raw_V, row)
    probs_V = distribution(edited_V, row)
    logprobs_V = raw_V - raw_V.max() - math.log(np.exp(raw_V - raw_V.max()).sum())
    if row.params.temperature < MIN_TEMPERATURE:
        return ReferenceDraw(token_id=int(np.argmax(edited_V)), probs=probs_V, logprobs=logprobs_V, margin=1.0)
    draw = uniform(row.seed, len(row.output_ids))
    cdf_V = np.cumsum(probs_V)
    token = next(i for i in range(len(cdf_V)) if cdf_V[i] > draw)
    margin = min(cdf_V[token] - draw, draw - (cdf_V[token] - probs_V[token]))
    return ReferenceDraw(token_id=token, probs=probs_V, logprobs=logprobs_V, margin=float(margin))


def uniform(seed: int, counter: int) -> float:
    """Same as `draw.uniforms`, in Python's own integers."""
    stream = mix64_int((seed + GOLDEN) & MASK_64)
    return (mix64_int((stream + (counter + 1) * GOLDEN) & MASK_64) >> 11) / 2**53


def edit(raw_V: F64, row: SampleRow) -> F64:
    """Bias, penalties, min_tokens, grammar, one token at a time."""
    params, logits = row.params, raw_V.copy()
    for token, bias in params.logit_bias:
        logits[token] += bias
    for token in set(row.prompt_ids) | set(row.output_ids):
        penalty = params.repetition_penalty
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    for token in set(row.output_ids):
        logits[token] -= params.frequency_penalty * row.output_ids.count(token) + params.presence_penalty
    banned: set[int] = set()
    if len(row.output_ids) < params.min_tokens:
        banned = {*row.eos_token_ids, *params.stop_token_ids}
    allowed = _allowed(row, len(logits))
    allowed = (allowed - banned) or allowed
    for token in range(len(logits)):
        if token not in allowed:
            logits[token] = -math.inf
    return logits


def _allowed(row: SampleRow, vocab_size: int) -> set[int]:
    mask = np.zeros(-(-vocab_size // 32), dtype=np.int32)
    if row.grammar is None or not row.grammar.fill_mask(mask):
        return set(range(vocab_size))
    return {token for token in range(vocab_size) if (int(mask[token // 32]) >> (token % 32)) & 1}


def distribution(logits_V: F64, row: SampleRow) -> F64:
    """Softmax at the temperature, then min-p, top-k and top-p; a token that ties with the last one kept is kept."""
    params = row.params
    temperature = params.temperature if params.temperature >= MIN_TEMPERATURE else 1.0
    probs = np.exp((logits_V - logits_V.max()) / temperature)
    probs = _keep(probs, probs >= params.min_p * probs.max())
    if params.top_k:
        probs = _keep(probs, np.array([(probs > p).sum() < params.top_k for p in probs]))
    if params.top_p < 1:
        probs = _keep(probs, np.array([probs[probs > p].sum() < params.top_p for p in probs]))
    return probs


def _keep(probs: F64, is_kept: npt.NDArray[np.bool_]) -> F64:
    kept: F64 = np.where(is_kept, probs, 0.0)
    kept /= kept.sum()
    return kept
