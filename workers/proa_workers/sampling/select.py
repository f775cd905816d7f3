"""Selecting in a distribution: the cutoffs of top-k and top-p, and the inverse CDF.

Sizes: R rows, V vocabulary, B buckets of one digit, C chunks of CHUNK tokens.
A row is described by distances y_RV = (max logit - logit) / temperature >= 0; their float32 bits, read as int32, order
as the floats do, so a distance is its own radix key. Weights are exp(-y), not normalised; sums are float64.

Each job has a way for a host, where counting beats sorting 25 to 1 and chunk sums beat a long scan, and one for a
device, where few launches matter and sorts are fast. Nothing here has a data-dependent shape or waits for a device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 128  # divides the vocabulary sizes in use (32000, 129280, 151936, 163840): no padding copy
_DIGITS = ((20, 11), (10, 10), (0, 10))  # (shift, bits) from the top of a non-negative int32


def cutoff_key(key_RV: Tensor, weight_RV: Tensor, budget_R1: Tensor) -> Tensor:
    """Largest key (int32, R x 1) such that the weight of all strictly smaller keys is below `budget_R1`.

    With weights 1 and budget k this is top-k, with probabilities and budget p it is top-p; tokens that tie with the
    last one kept are kept too. Any key may come back beyond the last when the whole row is within the budget.
    """
    find = cutoff_by_sorting if key_RV.is_cuda else cutoff_by_counting
    return find(key_RV, weight_RV, budget_R1)


def invert_cdf(weight_RV: Tensor, uniform_R1: Tensor) -> Tensor:
    """First token (int64, R x 1), in vocabulary order, whose cumulated weight exceeds uniform * total."""
    find = invert_by_scan if weight_RV.is_cuda else invert_by_chunks
    return find(weight_RV, uniform_R1).clamp_(max=weight_RV.shape[1] - 1)  # a NaN row, which the caller reports


def cutoff_by_sorting(key_RV: Tensor, weight_RV: Tensor, budget_R1: Tensor) -> Tensor:
    sorted_RV, order_RV = key_RV.sort(1)
    cum_RV = weight_RV.gather(1, order_RV).cumsum(1, dtype=torch.float64)
    num_within_R1 = (cum_RV < budget_R1).sum(1, keepdim=True)  # the next one starts below the budget and ends above
    return sorted_RV.gather(1, num_within_R1.clamp_(max=key_RV.shape[1] - 1))


def cutoff_by_counting(key_RV: Tensor, weight_RV: Tensor, budget_R1: Tensor) -> Tensor:
    """Three radix passes, 11, 10 and 10 bits: the digit at which the budget is passed, then within it the next."""
    prefix_R1 = torch.zeros_like(budget_R1, dtype=torch.int32)
    below_R1 = torch.zeros_like(budget_R1)
    mass_RV = weight_RV.double()
    for shift, bits in _DIGITS:
        mass_RB = _digit_mass(key_RV, mass_RV, prefix_R1, shift, bits)
        below_RB = below_R1 + functional.pad(mass_RB.cumsum(1)[:, :-1], (1, 0))
        # NOTE: counted as "not at or above", so that a NaN row, which the caller reports, cannot index out of bounds.
        digit_R1 = (1 << bits) - 1 - (below_RB >= budget_R1).sum(1, keepdim=True)
        below_R1 = below_RB.gather(1, digit_R1)
        prefix_R1 = (prefix_R1 << bits) | digit_R1.int()
    return prefix_R1


def _digit_mass(key_RV: Tensor, mass_RV: Tensor, prefix_R1: Tensor, shift: int, bits: int) -> Tensor:
    """Mass per value of the digit (R x 2**bits) over keys whose higher digits equal `prefix_R1`."""
    size = 1 << bits
    bucket_RV = (key_RV >> shift).sub_((prefix_R1 << bits) - 1).clamp_(0, size + 1)  # all other keys: first and last
    mass_RB = torch.zeros(key_RV.shape[0], size + 2, dtype=torch.float64, device=key_RV.device)
    return mass_RB.scatter_add_(1, bucket_RV.long(), mass_RV)[:, 1:-1]


def invert_by_scan(weight_RV: Tensor, uniform_R1: Tensor) -> Tensor:
    cum_RV = weight_RV.cumsum(1, dtype=torch.float64)
    return torch.searchsorted(cum_RV, uniform_R1 * cum_RV[:, -1:], right=True)


def invert_by_chunks(weight_RV: Tensor, uniform_R1: Tensor) -> Tensor:
    """A first pass over chunk sums, a second inside one chunk: a token of weight 0 is never returned."""
    rest = -weight_RV.shape[1] % CHUNK
    padded_RV = functional.pad(weight_RV, (0, rest)) if rest else weight_RV
    weight_RCK = padded_RV.view(weight_RV.shape[0], -1, CHUNK)
    chunk_RC = weight_RCK.sum(-1, dtype=torch.float64)
    chunk_R1, residual_R1 = _first_above(chunk_RC, uniform_R1 * chunk_RC.sum(1, keepdim=True))
    inner_RK = weight_RCK.gather(1, chunk_R1[:, :, None].expand(-1, 1, CHUNK)).squeeze(1)
    inner_R1, _ = _first_above(inner_RK.double(), residual_R1)
    return chunk_R1 * CHUNK + inner_R1


def _first_above(weight_RN: Tensor, target_R1: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first prefix sum above the target, and the target's remainder inside that element."""
    cum_RN = weight_RN.cumsum(1)
    total_R1 = cum_RN[:, -1:]
    # Two summation orders differ in the last bits: without the clamp the index could run past the last weight.
    reachable_R1 = torch.minimum(target_R1, torch.nextafter(total_R1, torch.zeros_like(total_R1)))
    index_R1 = torch.searchsorted(cum_RN, reachable_R1.contiguous(), right=True)
    index_R1.clamp_(max=weight_RN.shape[1] - 1)  # for a NaN row, as above
    before_R1 = functional.pad(cum_RN, (1, 0)).gather(1, index_R1)
    return index_R1, reachable_R1 - before_R1
