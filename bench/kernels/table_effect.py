"""What a measured table is worth: the expert layer as the engine calls it, with arch.py's choice and with the table.

    python -m bench.kernels.table_effect TABLE.json

Each side runs in a process of its own, because a table is read once; prints one JSON object, us by shape and tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial

import torch
from proa_kernels.moe_layer import fused_experts
from proa_kernels.timing import time_launches
from proa_kernels.tune import SHAPES
from proa_kernels.tune_problem import NUM_ROUTINGS, Problem

MODELS = ("qwen3-30b-a3b", "deepseek-v2-lite")
TOKENS = (1, 2, 4, 8, 32, 128, 256, 1024, 4096)
SECONDS = 120


def measure() -> dict[str, float]:
    """us of one layer under whatever table the environment names."""
    found = {}
    for model in MODELS:
        weights = Problem.random(SHAPES[model], "bf16", 1, torch.device("cuda"))
        for tokens in TOKENS:
            problem = weights.with_tokens(tokens)
            launches = [
                partial(fused_experts, problem.x, problem.weights, problem.ids[routing], problem.w13, problem.w2)
                for routing in range(NUM_ROUTINGS)
            ]
            found[f"{model} {tokens}"] = round(time_launches(launches, 0.03).us, 2)
    return found


def side(table: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.kernels.table_effect"]
    done = subprocess.run(
        command, env={**os.environ, "PROA_KERNELS_TABLE": table}, stdout=subprocess.PIPE, check=True, timeout=SECONDS
    )
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def main() -> None:
    """Both sides and their ratio; without an argument one side, as a child. Exit status 2 without a GPU."""
    if not torch.cuda.is_available():
        print("no GPU here: a table is worth something on the GPU it was measured on", file=sys.stderr)
        raise SystemExit(2)
    if len(sys.argv) == 1:
        print(json.dumps(measure()))
        return
    without, with_table = side(""), side(sys.argv[1])
    for name, us in without.items():
        print(f"{name:24} {us:9.2f} us, with the table {with_table[name]:9.2f} ({with_table[name] / us:5.3f})")
    print(json.dumps({"device": torch.cuda.get_device_name(), "arch": without, "table": with_table}))


if __name__ == "__main__":
    main()
