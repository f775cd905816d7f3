"""How a kernel's output is judged: tolerances with their derivation, poison before the run, canaries around it.

Used by the tests and by `bench.kernels`, so that what is timed is checked by the same code as what is tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# Unit roundoff: the largest relative error of rounding one number, 2^-(significant bits).
UNIT_ROUNDOFF = {
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8 / 2,
    torch.float8_e4m3fn: 2.0**-4,
    torch.float8_e4m3fnuz: 2.0**-4,
}
INT_POISON = -77_777


def tolerance(dtype: torch.dtype, *, num_roundings: int = 1, depth: int = 1) -> float:
    """Largest accepted `relative_error` of a result that is rounded to `dtype` `num_roundings` times on its way.

    A rounding changes each element by at most u times itself, so the vector by at most u times its norm; independent
    roundings add as squares. Sums of `depth` float32 products add sqrt(depth) 2^-24 (random signs). Nothing is added
    for luck: both terms are bounds of the rounding, while typical error is u / sqrt(3).
    """
    rounding = UNIT_ROUNDOFF[dtype] * math.sqrt(num_roundings)
    return math.hypot(rounding, UNIT_ROUNDOFF[torch.float32] * math.sqrt(depth) * 4)


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of `reference`, in float64; inf for any NaN or a difference in shape."""
    if out.shape != reference.shape:
        return math.inf
    ours, theirs = out.double(), reference.double()
    norm = float(theirs.norm())
    error = float((ours - theirs).norm())
    if math.isnan(error):
        return math.inf
    return error / norm if norm else (0.0 if error == 0.0 else math.inf)


def poison_(tensor: torch.Tensor) -> torch.Tensor:
    """Fill with NaN (floats) or `INT_POISON`, so that an element that nobody writes shows."""
    return tensor.fill_(float("nan") if tensor.is_floating_point() else INT_POISON)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A poisoned tensor inside a larger one: `is_intact` tells whether the margins were left alone."""

    tensor: torch.Tensor
    whole: torch.Tensor
    margin: int

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, margin: int = 64) -> Guarded:
        size = math.prod(shape)
        whole = poison_(torch.empty(size + 2 * margin, dtype=dtype, device=device))
        return cls(tensor=whole[margin : margin + size].view(shape), whole=whole, margin=margin)

    def is_intact(self) -> bool:
        edges = torch.cat([self.whole[: self.margin], self.whole[-self.margin :]])
        return bool(is_poison(edges).all())


def is_poison(tensor: torch.Tensor) -> torch.Tensor:
    """Where `tensor` still holds what `poison_` wrote."""
    return tensor.isnan() if tensor.is_floating_point() else tensor == INT_POISON


def alignment_faults(out: tuple[torch.Tensor, ...], reference: tuple[torch.Tensor, ...], block_rows: int) -> list[str]:
    """What differs from `align_ref` in the outputs of `launch_align`, poisoned before; empty when all is right.

    The order is stable, so there is one right answer; past the padded total nothing may have been written.
    """
    names = ("rows", "block experts", "totals", "inverse", "counts")
    total = int(reference[2][0])
    ends = (total, total // block_rows, *(None,) * 3)
    faults = []
    for name, end, ours, theirs in zip(names, ends, out, reference, strict=True):
        if not torch.equal(ours[:end].cpu(), theirs[:end].cpu()):
            faults.append(name)
        if end is not None and not bool(is_poison(ours[end:]).all()):
            faults.append(f"{name} past the end")
    return faults
