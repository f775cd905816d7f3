"""Align, gate and the decode layer alone: their checks, then their rows beside the floor, on one GPU.

python -m bench.kernels.align_gate --out bench/kernels/align_gate_h200.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.kernels.__main__ import verify
from bench.kernels.faults import tell_faults
from bench.kernels.measure import Ceilings, measure_ceilings
from bench.kernels.record import record
from bench.kernels.rows import Row, align_rows, decode_rows, gate_rows

NUM_PROCESSES = 12
CHECKED = ("align ", "gate ", "decode ", "layer bf16 5:", "layer a16w8 5:", "layer 5:")


def main() -> None:
    """Check first, then time. Exit status 1 when a check failed, 2 for bad arguments; the rows are written anyway."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU here; the CPU tests are `pytest tests/kernels`")
    torch.backends.cuda.matmul.allow_tf32 = False
    verdicts = verify(NUM_PROCESSES, CHECKED)
    faults = tell_faults(verdicts)
    ceilings = measure_ceilings()
    record(args.out, _all_rows(ceilings), verdicts, ceilings)
    if faults:
        raise SystemExit(f"{len(faults)} checks failed")


def _all_rows(ceilings: Ceilings) -> Iterator[Row]:
    yield from gate_rows(ceilings)
    yield from align_rows(ceilings)
    yield from decode_rows(ceilings)


if __name__ == "__main__":
    main()
