"""Norm and fp8 quantisation in one launch: equal to the two launches in sequence, and timed beside them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from proa_kernels.norm_quant_triton import launch_norm_quant
from proa_kernels.norm_triton import launch_rms_norm
from proa_kernels.quant_triton import launch_quant
from proa_kernels.testing import poison_

from bench.kernels.decode_problem import BF16
from bench.kernels.measure import Ceilings, time_launches
from bench.kernels.rows import Row

EPS = 1e-6
GROUPS = {"128": 128, "row": 0}
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _problem(tokens: int, size: int) -> Tensors:
    x, residual = (torch.randn(tokens, size, device="cuda", dtype=BF16) for _ in range(2))
    return x, residual, torch.randn(size, device="cuda", dtype=BF16)


def _outputs(tokens: int, size: int, group: int) -> Tensors:
    """Values, scales and sum, poisoned."""
    values = torch.empty(tokens, size, device="cuda").fill_(7.0).to(torch.float8_e4m3fn)
    scales = torch.empty(tokens, size // (group or size), device="cuda")
    return values, poison_(scales), poison_(torch.empty(tokens, size, device="cuda", dtype=BF16))


def _in_sequence(problem: Tensors, normed: torch.Tensor, outputs: Tensors, group: int) -> None:
    x, residual, weight = problem
    values, scales, total = outputs
    launch_rms_norm(x, residual, weight, EPS, normed, total)
    launch_quant(normed, values, scales, group, has_silu=False)


def check() -> str:
    """The first shape whose outputs differ in a bit from the two launches, or ""."""
    for tokens, size in ((1, 2048), (7, 7168), (500, 2048)):
        for group in GROUPS.values():
            problem = _problem(tokens, size)
            ours, theirs = _outputs(tokens, size, group), _outputs(tokens, size, group)
            launch_norm_quant(*problem, EPS, *ours, group)
            _in_sequence(problem, torch.empty_like(problem[0]), theirs, group)
            for name, a, b in zip(("values", "scales", "sum"), ours, theirs, strict=True):
                if not torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
                    return f"{tokens}x{size} group {group}: {name} differ"
    return ""


def norm_quant_rows(ceilings: Ceilings) -> Iterator[Row]:
    """One launch, with what the two take in the same run; floors are bytes moved by the one."""
    for tokens in (1, 32, 256, 8192):
        for name, group in GROUPS.items():
            sets = [(_problem(tokens, 2048), _outputs(tokens, 2048, group)) for _ in range(4)]
            normed = torch.empty(tokens, 2048, device="cuda", dtype=BF16)
            timing = time_launches([partial(launch_norm_quant, *problem, EPS, *out, group) for problem, out in sets])
            two = time_launches([partial(_in_sequence, problem, normed, out, group) for problem, out in sets])
            (x, residual, _), (values, scales, total) = sets[0]
            moved = sum(tensor.nbytes for tensor in (x, residual, values, scales, total))
            yield Row(
                name=f"add_norm_quant {name} {tokens}x2048", timing=timing,
                floor_us=moved / ceilings.copy_bytes * 1e6, detail=f"two launches {two.us:.2f}",
            )  # fmt: skip
