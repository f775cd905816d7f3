"""One token for each row of logits in one launch: temperature, min-p, top-k, top-p, then a seeded draw; or the argmax.

Legend: R rows, V vocabulary. Order and meaning as in vLLM (`v1/sample/`):

    y        = (max logit - logit) / temperature, float32; weight = exp(-y), 0 where y > reach = -log(min_p)
    top-k    keeps distances with fewer than k smaller ones
    top-p    keeps distances whose smaller ones hold less than p of the mass that top-k left
    token    = first id, in vocabulary order, whose cumulated weight exceeds uniform * total

A token that ties with the last one kept is kept. Sums are float64. The uniform of a sequence's n-th token is a pure
function of (seed, n): SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
A row is greedy below MIN_TEMPERATURE: its token is the lowest id of the largest logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from proa_kernels.arch import arm_for
from proa_kernels.dispatch import custom_op

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
MIN_TEMPERATURE = 1e-5
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MAX_VOCAB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """What each row asks for, on the device, [R] each: a launch in a graph reads what they hold at its replay.

    `temperature` float32; `reach` float64, -log(min_p) or inf; `top_k` int32, 0 for all; `top_p` float64; `seed` and
    `count` (tokens drawn before this one) int64.
    """

    temperature: torch.Tensor
    reach: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    seed: torch.Tensor
    count: torch.Tensor

    @classmethod
    def of(
        cls,
        *,
        temperature: Sequence[float],
        min_p: Sequence[float],
        top_k: Sequence[int],
        top_p: Sequence[float],
        seed: Sequence[int],
        count: Sequence[int],
        device: torch.device,
    ) -> SampleSettings:
        """Settings as requests spell them (`min_p` 0, `top_k` 0, `top_p` 1 change nothing; any int is a seed)."""
        reach = [-math.log(p) if p > 0 else math.inf for p in min_p]
        return cls(
            temperature=torch.tensor(temperature, dtype=torch.float32, device=device),
            reach=torch.tensor(reach, dtype=torch.float64, device=device),
            top_k=torch.tensor(top_k, dtype=torch.int32, device=device),
            top_p=torch.tensor(top_p, dtype=torch.float64, device=device),
            seed=torch.tensor([_signed(s) for s in seed], dtype=torch.int64, device=device),
            count=torch.tensor(count, dtype=torch.int64, device=device),
        )

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """In the order of the op's arguments."""
        return self.temperature, self.reach, self.top_k, self.top_p, self.seed, self.count


DTYPES = (torch.float32, torch.float64, torch.int32, torch.float64, torch.int64, torch.int64)


def sample(logits_RV: torch.Tensor, settings: SampleSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 [R] and the largest logit of each row float32 [R], both on the device.

    A row with NaN, +inf or nothing but -inf has a largest logit that is not finite, and token 0: the caller reports it.
    Rows of `logits_RV` may be apart, their elements may not. Raises ValueError for what does not fit.
    """
    num_rows, num_tokens = logits_RV.shape if logits_RV.dim() == 2 else (-1, 0)
    if num_rows < 0 or logits_RV.dtype not in FLOATS or (num_tokens > 1 and logits_RV.stride(1) != 1):
        raise ValueError(f"logits must be float rows [R, V], not {logits_RV.dtype} {tuple(logits_RV.shape)}")
    if not 0 < num_tokens <= MAX_VOCAB:
        raise ValueError(f"the vocabulary must have 1 to {MAX_VOCAB} tokens, not {num_tokens}")
    for tensor, dtype in zip(settings.tensors(), DTYPES, strict=True):
        if tensor.shape != (num_rows,) or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(f"a setting must be {dtype} [{num_rows}], not {tensor.dtype} {tuple(tensor.shape)}")
    return _sample_op(logits_RV, *settings.tensors())


def sample_ref(logits_RV: torch.Tensor, settings: SampleSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """By sorting whole rows."""
    peak_R, greedy_R = logits_RV.float().amax(1), logits_RV.float().argmax(1)
    cum_RV = weights_ref(logits_RV, settings).cumsum(1)
    target_R = uniforms_ref(settings.seed, settings.count) * cum_RV[:, -1]
    drawn_R = (cum_RV <= target_R[:, None]).sum(1).clamp(max=cum_RV.shape[1] - 1)
    token_R = torch.where(settings.temperature >= MIN_TEMPERATURE, drawn_R, greedy_R)
    return token_R.where(peak_R.isfinite(), 0), peak_R


def weights_ref(logits_RV: torch.Tensor, settings: SampleSettings) -> torch.Tensor:
    """The distribution that tokens are drawn from, not normalised, float64 [R, V]; of greedy rows at temperature 1."""
    x_RV, temperature_R1 = logits_RV.float(), settings.temperature[:, None]
    temperature_R1 = torch.where(temperature_R1 >= MIN_TEMPERATURE, temperature_R1, 1.0)
    y_RV = (x_RV.amax(1, keepdim=True) - x_RV) / temperature_R1
    weight_RV = torch.where(y_RV > settings.reach[:, None], 0.0, torch.exp(-y_RV)).double()
    top_k_R1, top_p_R1 = settings.top_k[:, None].double(), settings.top_p[:, None]
    weight_RV = _keep(y_RV, weight_RV, torch.ones_like(weight_RV), torch.where(top_k_R1 > 0, top_k_R1, math.inf))
    mass_R1 = weight_RV.sum(1, keepdim=True)
    return _keep(y_RV, weight_RV, weight_RV, torch.where(top_p_R1 < 1, top_p_R1 * mass_R1, math.inf))


def _keep(y_RV: torch.Tensor, weight_RV: torch.Tensor, spent_RV: torch.Tensor, budget_R1: torch.Tensor) -> torch.Tensor:
    """Weights of distances whose strictly smaller ones spend less than the budget; 0 for the others."""
    sorted_RV, order_RV = y_RV.sort(1)
    num_within_R1 = (spent_RV.gather(1, order_RV).cumsum(1) < budget_R1).sum(1, keepdim=True)
    cutoff_R1 = sorted_RV.gather(1, num_within_R1.clamp(max=y_RV.shape[1] - 1))
    return torch.where(y_RV <= cutoff_R1, weight_RV, 0.0)


def uniforms_ref(seed_R: torch.Tensor, count_R: torch.Tensor) -> torch.Tensor:
    """float64 in [0, 1) with 53 random bits; int64 arithmetic wraps as unsigned does."""
    stream_R = _mix(seed_R + _signed(GOLDEN))
    bits_R = _mix(stream_R + (count_R + 1) * _signed(GOLDEN))
    return _shifted(bits_R, 11).double() * 2.0**-53


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shifted(x, 30)) * _signed(MIX_1)
    x = (x ^ _shifted(x, 27)) * _signed(MIX_2)
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Right, with zeros from the left."""
    return (x >> num_bits) & ((1 << (64 - num_bits)) - 1)


def _signed(word: int) -> int:
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


@custom_op(
    "proa::sample",
    schema="(Tensor logits, Tensor temperature, Tensor reach, Tensor top_k, Tensor top_p, Tensor seed, Tensor count)"
    " -> (Tensor, Tensor)",
)
def _sample_op(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    reach: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    seed: torch.Tensor,
    count: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    settings = SampleSettings(temperature=temperature, reach=reach, top_k=top_k, top_p=top_p, seed=seed, count=count)
    if arm_for("sample", logits.device) == "reference":
        return sample_ref(logits, settings)
    from proa_kernels.sample_triton import launch_sample  # the reference needs no Triton

    tokens, peaks = _sample_fake(logits)
    launch_sample(logits, settings, tokens, peaks)
    return tokens, peaks


@_sample_op.register_fake
def _sample_fake(logits: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows = logits.shape[0]
    return logits.new_empty(num_rows, dtype=torch.int64), logits.new_empty(num_rows, dtype=torch.float32)
