"""Correctness of every candidate before it may be timed: poison, canaries, and a reference in float32.

    python -m proa_kernels.tune_checks PART NUM_PARTS KIND...

prints one JSON object for each check: its name -> "" or what is wrong.

Parts run as processes of their own, because compilation is what takes the time: they leave the compiled kernels in
Triton's cache for the timings.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import cast

import torch
from triton.errors import TritonError

from proa_kernels.arch import ROW_TILES, DecodeBlocks, GemmBlocks, arch_of
from proa_kernels.tables import Kind, LayerShape
from proa_kernels.testing import Guarded, relative_error, tolerance
from proa_kernels.tune_candidates import PRODUCTS, Product, all_gemms, decode_candidates, label
from proa_kernels.tune_problem import Problem

SMALL = LayerShape(num_experts=9, per_token=3, hidden=512, width=256)
TOKENS, FEW_TOKENS = 150, 5
VERIFY_SECONDS = 400
DOES_NOT_RUN, UNFINISHED = "does not run", "unfinished"  # how verdicts begin that say nothing about results
Check = Callable[[], str]


def gemm_name(kind: Kind, which: Product, blocks: GemmBlocks) -> str:
    return f"gemm{which} {kind} {label(blocks)}"


def decode_name(kind: Kind, which: Product, blocks: DecodeBlocks) -> str:
    return f"decode{which} {kind} {label(blocks)}"


def checks(device: torch.device, kinds: Sequence[Kind]) -> Iterator[tuple[str, Check]]:
    arch = arch_of(device)
    for kind, which, blocks in all_gemms(arch, kinds, ROW_TILES):
        yield gemm_name(kind, which, blocks), partial(check_gemm, device, kind, which, blocks)
    for kind in kinds:
        ups, downs = decode_candidates(arch, kind)
        for which, one in [*product(PRODUCTS[:1], ups), *product(PRODUCTS[1:], downs)]:
            yield decode_name(kind, which, one), partial(check_decode, device, kind, which, one)


def check_gemm(
    device: torch.device,
    kind: Kind,
    which: Product,
    blocks: GemmBlocks,
    shape: LayerShape = SMALL,
    tokens: int = TOKENS,
) -> str:
    """ "" or what is wrong with one product under these blocks."""
    torch.manual_seed(0)
    problem = Problem.random(shape, kind, tokens, device)
    alignment = problem.align(0, blocks.rows)
    kept = alignment.inverse_N.long()
    capacity, total = alignment.rows_R.numel(), int(alignment.totals_2[0])
    if which == 1:
        out = Guarded.empty((capacity, shape.width), problem.x.dtype, device)
        problem.run_first(alignment, blocks, out.tensor)
        expected = problem.expected_hidden(0)
    else:
        h = torch.randn(capacity, shape.width, device=device).to(problem.x.dtype)
        out = Guarded.empty((capacity, shape.hidden), problem.x.dtype, device)
        problem.run_second(h, alignment, blocks, out.tensor)
        expected = problem.expected_pairs(h[kept], 0)
    if not out.is_intact() or not bool(out.tensor[total:].isnan().all()):
        return "wrote outside its rows"
    return _verdict(out.tensor[kept], expected, shape.hidden)


def check_decode(
    device: torch.device, kind: Kind, which: Product, blocks: DecodeBlocks, shape: LayerShape = SMALL
) -> str:
    """ "" or what is wrong with one launch for few pairs."""
    torch.manual_seed(0)
    problem = Problem.random(shape, kind, FEW_TOKENS, device)
    exact = problem.expected_hidden(0)
    if which == 1:
        h = Guarded.empty(tuple(exact.shape), torch.float32, device)
        problem.run_up(0, blocks, h.tensor)
        return _verdict(h.tensor, exact, shape.hidden, torch.float32) if h.is_intact() else "wrote outside its rows"
    out = Guarded.empty(tuple(problem.x.shape), problem.x.dtype, device)
    problem.run_down(exact, 0, blocks, out.tensor)
    return _verdict(out.tensor, problem.expected(0), shape.width) if out.is_intact() else "wrote outside its rows"


def _verdict(out: torch.Tensor, expected: torch.Tensor, depth: int, dtype: torch.dtype | None = None) -> str:
    error = relative_error(out, expected)
    return "" if error < tolerance(dtype or out.dtype, depth=depth) else f"off by {error:.1e}"


def guarded(check: Check) -> str:
    """The verdict of `check`; what the compiler or the driver refuses is a verdict too."""
    try:
        return check()
    except (RuntimeError, TritonError) as error:
        return f"{DOES_NOT_RUN}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def verdicts(kinds: Sequence[Kind], parts: int) -> dict[str, str]:
    """Verdicts of `parts` processes; one that dies or is late gives those it had, and is named as `UNFINISHED`."""
    deadline = time.monotonic() + VERIFY_SECONDS
    command = [sys.executable, "-m", "proa_kernels.tune_checks"]
    running = [
        subprocess.Popen([*command, str(part), str(parts), *kinds], stdout=subprocess.PIPE, text=True)
        for part in range(parts)
    ]
    found: dict[str, str] = {}
    for part, process in enumerate(running):
        found |= _verdicts_of(part, process, deadline)
    return found


def _verdicts_of(part: int, process: subprocess.Popen[str], deadline: float) -> dict[str, str]:
    reason = ""
    try:
        out, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        reason = f"stopped after {VERIFY_SECONDS} s"
    found: dict[str, str] = {}
    for line in out.splitlines():
        if line.startswith("{") and line.endswith("}"):  # compilers write here too, and the last line may be half a one
            found |= json.loads(line)
    if process.returncode:
        reason = reason or f"ended with code {process.returncode}"
        found[f"part {part}"] = f"{UNFINISHED}: {reason}, {len(found)} checks done; the rest count as left out"
    return found


def main() -> None:
    part, num_parts = int(sys.argv[1]), int(sys.argv[2])
    kinds = cast("list[Kind]", sys.argv[3:])
    torch.backends.cuda.matmul.allow_tf32 = False
    mine = [one for idx, one in enumerate(checks(torch.device("cuda"), kinds)) if idx % num_parts == part]
    for name, check in mine:
        print(json.dumps({name: guarded(check)}), flush=True)


if __name__ == "__main__":
    main()
