"""Correctness, then timings, of the kernels on one GPU, with the floor beside each row.

    python -m bench.kernels --out bench/kernels --seconds 170
    python -m bench.kernels --redraw        (draws the records that are there, on any machine)

Writes kernels-<gpu>.json and prints a table. Timings are medians of CUDA-graph replays on inputs that rotate past L2;
the public figures are the project's anchors, measured on an H200. Rows that do not start before `--seconds` are left
out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from bench.kernels.faults import tell_faults
from bench.kernels.measure import Ceilings, measure_ceilings
from bench.kernels.record import record
from bench.kernels.rows import Row, align_rows, decode_rows, gate_rows, layer_rows
from bench.serving.provenance import ROOT

VERIFY_SECONDS = 100


def main() -> None:
    args = parse_args()
    if args.redraw:
        redraw(args.out)
    else:
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Check, then time. Exit status 1 when a check failed; candidates that do not fit the GPU are left out instead."""
    started = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = False
    verdicts = verify(args.parts)
    faults = tell_faults(verdicts)
    print(f"checked in {time.monotonic() - started:.0f} s")
    ceilings = measure_ceilings()
    print(ceilings)
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    rows = in_time(all_rows(ceilings, frozenset(faults)), started + args.seconds)
    record(args.out / f"kernels-{gpu}.json", rows, verdicts, ceilings)
    if any(not verdict.startswith("does not fit") for verdict in faults.values()):
        raise SystemExit(f"{len(faults)} checks failed or do not fit, see above")


def parse_args() -> argparse.Namespace:
    """Exits with status 2 without a GPU, which --redraw does not need."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "kernels")
    parser.add_argument("--seconds", type=float, default=170.0, help="start no further row after this time")
    parser.add_argument("--parts", type=int, default=max(1, min(12, (os.cpu_count() or 1) - 2)), help="checks at once")
    parser.add_argument("--redraw", action="store_true", help="only draw the JSON files of --out")
    args = parser.parse_args()
    if not args.redraw and not torch.cuda.is_available():
        parser.error("no GPU here; the CPU tests are `pytest tests/kernels`")
    return args


def redraw(folder: Path) -> None:
    from bench.kernels import plot  # a machine that only measures needs no matplotlib

    drawn, left_out = plot.redraw(folder)
    for path in drawn:
        print(path.name)
    for path in left_out:
        print(f"{path.name}: no floors, no picture")


def verify(parts: int, starts: tuple[str, ...] = ()) -> dict[str, str]:
    """Verdicts of all checks, or of those whose names begin so, in `parts` processes: compilation uses all cores."""
    deadline = time.monotonic() + VERIFY_SECONDS
    command = [sys.executable, "-m", "bench.kernels.verify"]
    running = [
        subprocess.Popen([*command, str(part), str(parts), *starts], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for part in range(parts)
    ]
    verdicts: dict[str, str] = {}
    for part, process in enumerate(running):
        try:
            out, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode:
            verdicts[f"part {part}"] = f"ended with code {process.returncode}"
        else:
            verdicts |= json.loads(out.splitlines()[-1])
    return verdicts


def all_rows(ceilings: Ceilings, refused: frozenset[str]) -> Iterator[Row]:
    yield from align_rows(ceilings)
    yield from gate_rows(ceilings)
    yield from decode_rows(ceilings)
    yield from layer_rows(ceilings, refused)


def in_time(rows: Iterable[Row], deadline: float) -> Iterator[Row]:
    """Rows until one ends after `deadline` (monotonic clock, seconds), and a line that says whether any is left out."""
    for row in rows:
        yield row
        if time.monotonic() > deadline:
            print(f"stopped after {row.name}: time is over")
            return
    print("complete")


if __name__ == "__main__":
    main()
