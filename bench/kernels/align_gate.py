"""Align, gate and the decode layer alone: their checks, then their rows beside the floor, on one GPU.

python -m bench.kernels.align_gate --out bench/kernels/align_gate_h200.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import triton

from bench.kernels.__main__ import line, verify
from bench.kernels.faults import tell_faults
from bench.kernels.measure import Ceilings, measure_ceilings
from bench.kernels.rows import Row, align_rows, decode_rows, gate_rows
from bench.serving.provenance import provenance

NUM_PROCESSES = 12
CHECKED = ("align ", "gate ", "decode ", "layer bf16 5:", "layer a16w8 5:", "layer 5:")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU here; the CPU tests are `pytest tests/kernels`")
    torch.backends.cuda.matmul.allow_tf32 = False
    verdicts = verify(NUM_PROCESSES, CHECKED)
    faults = tell_faults(verdicts)
    ceilings = measure_ceilings()
    rows: list[Row] = []
    for row in _all_rows(ceilings):
        rows.append(row)
        print(line(row), flush=True)
        result = {
            **provenance(), "triton": triton.__version__, "ceilings": asdict(ceilings), "checks": verdicts,
            "rows": [asdict(one) for one in rows],
        }  # fmt: skip
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if faults else 0)


def _all_rows(ceilings: Ceilings) -> Iterator[Row]:
    yield from gate_rows(ceilings)
    yield from align_rows(ceilings)
    yield from decode_rows(ceilings)


if __name__ == "__main__":
    main()
