"""`proa-kernels tune`: time every arm and every right candidate of the expert layer, and write the table of this GPU.

For each shape and number of tokens: both launches for few pairs with their blocks, the grouped products under each row
tile that could fit, and AITER where it is installed. A candidate is timed only after its check (`tune_checks.py`), a
whole layer only after a check at full size. Times are medians of CUDA-graph replays on rotating routings.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from proa_kernels.aiter_arm import AiterExperts, why_not_aiter
from proa_kernels.arch import arch_of
from proa_kernels.tables import Kind, LayerShape, LayerTable, Table
from proa_kernels.tables_file import dump, identity_of
from proa_kernels.timing import Ceilings, measure_ceilings
from proa_kernels.tune_arms import Measured, Verdicts, measure
from proa_kernels.tune_checks import DOES_NOT_RUN, UNFINISHED, verdicts
from proa_kernels.tune_problem import Problem

# V2-Lite's two shared experts ride in the launches of its 64 routed ones, as the native engine stacks them.
SHAPES: Mapping[str, LayerShape] = {
    "qwen3-30b-a3b": LayerShape(num_experts=128, per_token=8, hidden=2048, width=768),
    "deepseek-v2-lite": LayerShape(num_experts=66, per_token=8, hidden=2048, width=1408, num_shared=2),
    "dsv3-ep32": LayerShape(num_experts=8, per_token=1, hidden=7168, width=2048),
}
TOKENS = (1, 2, 4, 8, 32, 128, 256, 1024, 4096, 16384)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`seconds`: no further row starts after so long; `parts`: checks in so many processes."""

    shapes: Sequence[LayerShape]
    kinds: Sequence[Kind]
    tokens: Sequence[int]
    out: Path
    seconds: float
    parts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    shape: LayerShape
    kind: Kind
    rows: list[Measured]


def tune(job: Job, device: torch.device, say: Say) -> int:
    """Write `job.out` after every row; returns how many candidates computed something wrong."""
    started = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = False
    found = verdicts(job.kinds, job.parts)
    left_out = {name: verdict for name, verdict in found.items() if verdict}
    say(f"{len(found)} checks in {time.monotonic() - started:.0f} s, {len(left_out)} candidates left out")
    for name, verdict in left_out.items():
        say(f"LEFT OUT {name}: {verdict}")
    ceilings = measure_ceilings()
    layers: list[Layer] = []
    for layer in _measured_layers(job, device, found, ceilings):
        if layer not in layers:
            layers.append(layer)
        write(job.out, record(device, layers, ceilings, left_out))
        say(line(layer, layer.rows[-1]))
        if time.monotonic() - started > job.seconds:
            say(f"stopped: {job.seconds:.0f} s are over; the table holds the rows above")
            break
    return sum(not verdict.startswith((DOES_NOT_RUN, UNFINISHED)) for verdict in left_out.values())


def _measured_layers(job: Job, device: torch.device, found: Verdicts, ceilings: Ceilings) -> Iterator[Layer]:
    """The same layer again after each of its rows."""
    for shape in job.shapes:
        for kind in job.kinds:
            layer = Layer(shape=shape, kind=kind, rows=[])
            weights = Problem.random(shape, kind, 1, device)
            aiter_layer = _in_aiter_layout(weights)
            for tokens in job.tokens:
                layer.rows.append(measure(weights.with_tokens(tokens), kind, found, ceilings, aiter_layer))
                yield layer
            del weights, aiter_layer
            torch.cuda.empty_cache()


def _in_aiter_layout(problem: Problem) -> AiterExperts | None:
    if why_not_aiter(arch_of(problem.w13.device), problem.w13, problem.w2):
        return None
    return AiterExperts.prepare(problem.w13, problem.w2, problem.w13_scale, problem.w2_scale)


def table_of(device: torch.device, layers: Sequence[Layer]) -> Table:
    rows = [
        LayerTable(shape=one.shape, kind=one.kind, rows=tuple(measured.row for measured in one.rows)) for one in layers
    ]
    return Table(**asdict(identity_of(device)), layers=tuple(rows))


def record(
    device: torch.device, layers: Sequence[Layer], ceilings: Ceilings, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """The table, and beside it all that was measured: readers of the table skip `measured`."""
    timed = [
        {"shape": asdict(one.shape), "kind": one.kind, "tokens": found.row.tokens, "floor_us": round(found.floor_us, 2),
         "us": dict(found.others), "excluded": dict(found.excluded)}
        for one in layers for found in one.rows
    ]  # fmt: skip
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "runtime": torch.version.hip or torch.version.cuda,
        "ceilings": asdict(ceilings),
        "left_out": dict(left_out),
        "rows": timed,
    }
    return {**dump(table_of(device, layers)), "measured": about}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Beside it first: a reader never sees half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(f".{os.getpid()}")
    partial_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial_path.replace(path)


def line(layer: Layer, found: Measured) -> str:
    shape, row = layer.shape, found.row
    others = "; ".join(f"{name}: {us:.1f}" for name, us in sorted(found.others.items(), key=lambda pair: pair[1]))
    vendor = f"  aiter {row.aiter_us:.1f}" if row.aiter_us else ""
    return (
        f"E={shape.num_experts} A={shape.per_token} H={shape.hidden} I={shape.width} {layer.kind} {row.tokens:6} tokens"
        f" {row.us:9.2f} us  floor {found.floor_us:9.2f} ({found.floor_us / row.us:4.2f}){vendor}  {others}"
    )
