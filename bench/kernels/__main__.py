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
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import triton

from bench.kernels.measure import Ceilings, measure_ceilings
from bench.kernels.rows import Row, align_rows, decode_rows, gate_rows, layer_rows
from bench.serving.provenance import ROOT, provenance

VERIFY_SECONDS = 100


def main() -> None:
    args = parse_args()
    if args.redraw:
        redraw(args.out)
    else:
        measure(args)


def measure(args: argparse.Namespace) -> None:
    started = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = False
    verdicts = verify(args.parts)
    print(f"{len(verdicts)} checks in {time.monotonic() - started:.0f} s")
    faults = {name: verdict for name, verdict in verdicts.items() if verdict}
    for name, verdict in faults.items():
        print(f"WRONG {name}: {verdict}")
    ceilings = measure_ceilings()
    print(ceilings)
    rows, left_out = [], ""
    for row in all_rows(ceilings, frozenset(faults)):
        rows.append(row)
        print(line(row), flush=True)
        write(args.out, rows, verdicts, ceilings)
        if time.monotonic() - started > args.seconds:
            left_out = f"stopped after {row.name}: {args.seconds} s are over"
            break
    print(left_out or "complete")
    if any(not verdict.startswith("does not fit") for verdict in faults.values()):
        raise SystemExit(f"{len(faults)} checks failed or do not fit, see above")


def parse_args() -> argparse.Namespace:
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


def line(row: Row) -> str:
    share = row.floor_us / row.timing.us
    return (
        f"{row.name:38} {row.timing.us:9.2f} ({row.timing.again_us:9.2f}) us  floor {row.floor_us:9.2f} ({share:4.2f})"
        f"  public {row.public_us:7.1f}  bound {row.bound_us:6.1f}  {row.detail}"
    )


def write(folder: Path, rows: list[Row], verdicts: dict[str, str], ceilings: Ceilings) -> None:
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    result = {
        **provenance(),
        "triton": triton.__version__,
        "ceilings": asdict(ceilings),
        "checks": verdicts,
        "rows": [asdict(row) for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"kernels-{gpu}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
