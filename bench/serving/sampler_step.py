"""Milliseconds of one call of the sampler, as a Markdown table.

    OMP_NUM_THREADS=1 python -m bench.serving.sampler_step [--device cuda]

Random logits; each row has a prompt of 1000 tokens and an output that grows from 100 on (penalties read them). Best of
several calls: processor time of one thread on a host (so that others disturb it less), wall time on a device.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.sampling.sampler import Sampler

from bench.serving.provenance import provenance

CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "greedy, 5 logprobs": {"temperature": 0.0, "logprobs": 5},
    "temperature": {"temperature": 0.8},
    "min-p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "top-k 20": {"temperature": 0.8, "top_k": 20},
    "top-k 20, top-p 0.95": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "top-p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "temperature, repetition": {"temperature": 0.8, "repetition_penalty": 1.1},
    "temperature, all penalties": {"temperature": 0.8, "repetition_penalty": 1.1, "frequency_penalty": 0.5},
}
BATCHES = (1, 16, 256)
VOCABULARIES = (1024, 151_936)


def main() -> None:
    """Print a table of milliseconds per call: rows are kinds of requests, columns vocabulary and batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    columns = [(vocab, batch) for vocab in VOCABULARIES for batch in BATCHES]
    logits = {(v, b): torch.randn(b, v, device=device) * 3 for v, b in columns}
    print(f"{provenance()}\n\n| ms per call | " + " | ".join(f"V={v} R={b}" for v, b in columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name, params in CASES.items():
        cells = [f"{best_ms(logits[v, b], params, device):.2f}" for v, b in columns]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def best_ms(logits_RV: torch.Tensor, params: dict[str, Any], device: str) -> float:
    """Fastest of some runs: time of the process on a CPU, wall time on a GPU."""
    rows = [
        SampleRow(
            params=SamplingParams(max_tokens=2000, **params),
            seed=seed,
            prompt_ids=list(range(1000)),
            output_ids=list(range(100)),
            eos_token_ids=(2,),
        )
        for seed in range(logits_RV.shape[0])
    ]
    sampler = Sampler(vocab_size=logits_RV.shape[1], device=device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = []
    for _ in range(4 if logits_RV.numel() > 1e7 and device == "cpu" else 21):
        started = clock()
        drawn = sampler.sample(logits_RV, rows)
        seconds.append(clock() - started)
        for row, sampled in zip(rows, drawn, strict=True):
            row.output_ids.append(sampled.token_id)
    return min(seconds[1:]) * 1e3


if __name__ == "__main__":
    main()
