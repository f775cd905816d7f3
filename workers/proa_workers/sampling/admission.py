"""Checks of a request's sampling settings against the model, before it is queued. Imports no torch.

What passes here and `SamplingParams` cannot break a sampler step, which would fail every request of the batch.
"""

from __future__ import annotations

from proa_workers.core.params import SamplingParams
from proa_workers.errors import InvalidRequest

MAX_BIAS = 100.0


def check_admissible(params: SamplingParams, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
    """InvalidRequest for token ids that the model does not have, wild biases, and settings that allow no token."""
    for field, ids in (("logit_bias", [t for t, _ in params.logit_bias]), ("stop_token_ids", params.stop_token_ids)):
        for token_id in ids:
            if not 0 <= token_id < vocab_size:
                raise InvalidRequest(f"{field} has token id {token_id}; this model's ids are 0..{vocab_size - 1}")
    for token_id, bias in params.logit_bias:
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise InvalidRequest(f"logit_bias of token {token_id} must be in -100..100, got {bias}")
    if params.min_tokens and len({*params.stop_token_ids, *eos_token_ids}) >= vocab_size:
        raise InvalidRequest("min_tokens with every token in stop_token_ids leaves no token: drop one of them")
