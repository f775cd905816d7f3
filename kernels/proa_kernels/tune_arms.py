"""The arms of the expert layer for one number of tokens: fastest blocks of each, checked at full size, then timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from proa_kernels.aiter_arm import AiterExperts
from proa_kernels.arch import Arch, DecodeBlocks, GemmBlocks, arch_of
from proa_kernels.tables import Kind, LayerRow
from proa_kernels.testing import relative_error, tolerance
from proa_kernels.timing import Ceilings, Launch, time_launches
from proa_kernels.tune_candidates import Product, decode_candidates, gemm_candidates, label, row_tiles
from proa_kernels.tune_checks import decode_name, gemm_name, guarded
from proa_kernels.tune_problem import NUM_ROUTINGS, Problem

MAX_FEW_PAIRS = 64  # twice what arch.py gives to the two launches
LAYER_ROUNDINGS = 3  # hidden rows, rows before the sum, the sum
AITER_FP8_ERROR = 0.05  # with fp8 weights it rounds activations to fp8 too, before both products
SWEEP_SECONDS = 0.02
Verdicts = Mapping[str, str]
Run = Callable[[int], torch.Tensor]
B = TypeVar("B")


class NoRightArm(RuntimeError):
    """No candidate passed its check, or none is right at full size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A row of the table; what else was timed, us; what was left out, and why."""

    row: LayerRow
    floor_us: float
    others: Mapping[str, float]
    excluded: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to compute the layer; `row.us` is filled in once it was timed."""

    name: str
    row: LayerRow
    run: Run


def measure(
    problem: Problem, kind: Kind, verdicts: Verdicts, ceilings: Ceilings, aiter_layer: AiterExperts | None
) -> Measured:
    """The fastest option that is right at full size. NoRightArm if there is none."""
    arch, exact = arch_of(problem.x.device), problem.expected(0)
    options = [*few_pairs(problem, kind, arch, verdicts), *grouped(problem, kind, arch, verdicts)]
    times: dict[str, float] = {}
    excluded: dict[str, str] = {}
    rows = []
    limit = layer_tolerance(problem)
    for option in options:
        if us := _checked_us(option.name, option.run, exact, limit, excluded):
            times[option.name] = us
            rows.append(replace(option.row, us=us))
    if not rows:
        reasons = "; ".join(f"{name}: {fault}" for name, fault in excluded.items()) or "no candidate passed its check"
        raise NoRightArm(f"no arm computes {problem.shape} with {problem.x.shape[0]} tokens ({reasons})")
    aiter_us = 0.0
    if aiter_layer is not None:
        run = partial(_run_aiter, problem, aiter_layer)
        aiter_us = _checked_us("aiter", run, exact, limit if kind == "bf16" else AITER_FP8_ERROR, excluded)
    best = replace(min(rows, key=lambda row: row.us), aiter_us=aiter_us)
    return Measured(row=best, floor_us=floor_us(problem, kind, ceilings), others=times, excluded=excluded)


def layer_tolerance(problem: Problem) -> float:
    depth = problem.shape.hidden + problem.shape.width
    return tolerance(problem.x.dtype, num_roundings=LAYER_ROUNDINGS, depth=depth)


def _checked_us(name: str, run: Run, exact: torch.Tensor, limit: float, excluded: dict[str, str]) -> float:
    """us of one launch, or 0 with the fault noted in `excluded`."""
    if fault := guarded(partial(_fault, run, exact, limit)):
        excluded[name] = fault
        return 0.0
    return round(time_launches([partial(run, routing) for routing in range(NUM_ROUTINGS)]).us, 2)


def _fault(run: Run, exact: torch.Tensor, limit: float) -> str:
    error = relative_error(run(0), exact)
    return "" if error < limit else f"off by {error:.1e}"


def few_pairs(problem: Problem, kind: Kind, arch: Arch, verdicts: Verdicts) -> Iterator[Option]:
    """The two launches with their fastest right blocks, and with the first of each list: arch.py's."""
    tokens, num_pairs = problem.x.shape[0], problem.ids[0].numel()
    ups, downs = decode_candidates(arch, kind)
    ups = [one for one in ups if verdicts.get(decode_name(kind, 1, one)) == ""]
    downs = [one for one in downs if verdicts.get(decode_name(kind, 2, one)) == ""]
    if num_pairs > MAX_FEW_PAIRS or not ups or not downs:
        return
    h = torch.randn(num_pairs, problem.shape.width, device=problem.x.device)
    out = torch.empty_like(problem.x)
    up = fastest(ups, lambda one, routing: problem.run_up(routing, one, h))
    down = fastest(downs, lambda one, routing: problem.run_down(h, routing, one, out))
    for one, other in dict.fromkeys([(up, down), (ups[0], downs[0])]):
        row = LayerRow(tokens=tokens, arm="decode", us=0.0, up=one, down=other)
        yield Option(name=f"decode {label(one)}, {label(other)}", row=row, run=partial(_run_few, problem, one, other))


def grouped(problem: Problem, kind: Kind, arch: Arch, verdicts: Verdicts) -> Iterator[Option]:
    """For each row tile that could fit: the fastest right blocks of each product, and the first ones, arch.py's."""
    for rows in row_tiles(problem.ids[0].numel(), problem.shape.num_experts):
        firsts, seconds = (_right(kind, arch, which, rows, verdicts) for which in (1, 2))
        if not firsts or not seconds:
            continue
        fastest_pair = fastest_products(problem, rows, firsts, seconds)
        for first, second in dict.fromkeys([fastest_pair, (firsts[0], seconds[0])]):
            row = LayerRow(tokens=problem.x.shape[0], arm="grouped", us=0.0, first=first, second=second)
            name = f"grouped {label(first)}, {label(second)}"
            yield Option(name=name, row=row, run=partial(_run_grouped, problem, first, second))


def _right(kind: Kind, arch: Arch, which: Product, rows: int, verdicts: Verdicts) -> list[GemmBlocks]:
    options = gemm_candidates(arch, kind, which, rows)
    return [one for one in options if verdicts.get(gemm_name(kind, which, one)) == ""]


def fastest_products(
    problem: Problem, rows: int, firsts: Sequence[GemmBlocks], seconds: Sequence[GemmBlocks]
) -> tuple[GemmBlocks, GemmBlocks]:
    """The fastest blocks of each product under row tiles of `rows`, over all routings."""
    alignments = [problem.align(routing, rows) for routing in range(NUM_ROUTINGS)]
    capacity = alignments[0].rows_R.numel()
    h = torch.randn(capacity, problem.shape.width, device=problem.x.device).to(problem.x.dtype)
    h_out, pairs = torch.empty_like(h), problem.x.new_empty(capacity, problem.shape.hidden)
    first = fastest(firsts, lambda one, routing: problem.run_first(alignments[routing], one, h_out))
    second = fastest(seconds, lambda one, routing: problem.run_second(h, alignments[routing], one, pairs))
    return first, second


def fastest(options: Sequence[B], run: Callable[[B, int], None]) -> B:
    """The option with the least time over rotating routings."""

    def us(option: B) -> float:
        launches: list[Launch] = [partial(run, option, routing) for routing in range(NUM_ROUTINGS)]
        return time_launches(launches, SWEEP_SECONDS).us

    return min(options, key=us)


def _run_few(problem: Problem, up: DecodeBlocks, down: DecodeBlocks, routing: int) -> torch.Tensor:
    return problem.run_few(routing, up, down)


def _run_grouped(problem: Problem, first: GemmBlocks, second: GemmBlocks, routing: int) -> torch.Tensor:
    return problem.run_grouped(routing, first, second)


def _run_aiter(problem: Problem, layer: AiterExperts, routing: int) -> torch.Tensor:
    return layer(problem.x, problem.weights, problem.ids[routing])


def floor_us(problem: Problem, kind: Kind, ceilings: Ceilings) -> float:
    """The larger of FLOP time and the time to move the weights in use, inputs and outputs once."""
    shape, num_pairs = problem.shape, problem.ids[0].numel()
    in_use = sum(torch.unique(ids).numel() for ids in problem.ids) / len(problem.ids)
    weight_bytes = in_use * 3 * shape.width * shape.hidden * (2 if kind == "bf16" else 1)
    moved: float = weight_bytes + 2 * problem.x.nbytes + 4 * num_pairs * (shape.width + shape.hidden)
    flops = 6 * num_pairs * shape.width * shape.hidden
    return max(moved / ceilings.copy_bytes, flops / ceilings.bf16_flops) * 1e6
