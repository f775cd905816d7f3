"""Milliseconds per decode step of the native engine with random weights made on the device.

    python -m bench.serving.engine_step --shape qwen3-30b-a3b --out bench/serving/engine_step.json
    python -m bench.serving.engine_step --shape tiny --device cpu --out /tmp/dry.json     (dry run)

First `device_check` must pass. Then, per batch size, with and without CUDA graphs where there are any: prompts of 128
random tokens, 64 decode steps with growing context, median wall time of `step` (it ends with the tokens on the host).
The floor is the time to read the weights that the batch touches and its keys and values once, at the copy bandwidth
measured here (bytes read plus bytes written).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings
from proa_workers.model.config import ModelConfig
from proa_workers.profile.drive import Sequences

from bench.serving.device_check import check_device
from bench.serving.provenance import ROOT, provenance
from bench.serving.shapes import SHAPES, decode_step_bytes

PROMPT, STEPS, BLOCK_TOKENS = 128, 64, 32
# vLLM 0.26.0 on one H200, bf16, CUDA graphs, mean context 256 (anchors of the project).
VLLM_H200_MS = {
    "qwen3-30b-a3b": {1: 4.10, 8: 8.89, 32: 15.0, 128: 18.7, 256: 21.9},
    "deepseek-v2-lite": {1: 3.29, 8: 6.47, 32: 9.33, 128: 11.0, 256: 11.9},
}


def main() -> None:
    args = parse_args()
    if args.redraw:
        draw(json.loads(args.out.read_text(encoding="utf-8")), args.out.with_suffix(".png"))
        return
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    record: dict[str, Any] = {**provenance(), "prompt_tokens": PROMPT, "decode_steps": STEPS}
    record["checks"] = check_device(device)
    record["copy_bytes_per_second"] = copy_bandwidth(torch.device(device))
    print(f"copy bandwidth {record['copy_bytes_per_second'] / 1e9:.0f} GB/s", flush=True)
    record["results"] = []
    for shape in args.shape:
        record["results"] += measure(shape, device, args.batches, record["copy_bytes_per_second"])
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print_table(record)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=sorted(SHAPES), default=["qwen3-30b-a3b"])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--out", type=Path, default=ROOT / "bench/serving/engine_step.json")
    parser.add_argument("--redraw", action="store_true", help="only draw the plot of an existing --out")
    return parser.parse_args()


def measure(shape: str, device: str, batches: list[int], bandwidth: float) -> list[dict[str, Any]]:
    config = SHAPES[shape]
    start = time.perf_counter()
    longest = PROMPT + STEPS + 2
    settings = NativeSettings(
        device="cuda" if device == "cuda" else "cpu",
        block_tokens=BLOCK_TOKENS,
        max_model_len=longest,
        num_blocks=max(batches) * (-(-longest // BLOCK_TOKENS)),
    )
    engine = NativeEngine.with_random_weights(config, settings)
    print(f"{shape}: weights made in {time.perf_counter() - start:.1f} s, {engine.info.dtype}", flush=True)
    rows = [measure_batch(engine, shape, config, batch, bandwidth) for batch in batches]
    if engine.graphs is not None:
        engine.graphs = None
        rows += [measure_batch(engine, shape, config, batch, bandwidth) for batch in batches]
    engine.close()
    return rows


def measure_batch(
    engine: NativeEngine, shape: str, config: ModelConfig, batch: int, bandwidth: float
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(batch)
    prompts = torch.randint(0, config.vocab_size, (batch, PROMPT), generator=generator).tolist()
    sequences = Sequences(engine, prompts, STEPS + 2)
    start = time.perf_counter()
    sequences.prefill(chunk_tokens=4096)
    prefill_seconds = time.perf_counter() - start
    seconds = sorted(sequences.decode() for _ in range(STEPS))
    element_bytes = 4 if engine.info.dtype == "float32" else 2
    floor_ms = 1000 * decode_step_bytes(config, batch, PROMPT + STEPS / 2, element_bytes) / bandwidth
    row = {
        "shape": shape,
        "batch": batch,
        "dtype": engine.info.dtype,
        "graphs": engine.graphs is not None,
        "arms": f"{engine.arms.attention}/{engine.arms.for_tokens(batch)}",
        "ms_per_step": round(1000 * median(seconds), 3),
        "ms_p10_p90": [round(1000 * seconds[int(STEPS * q)], 3) for q in (0.1, 0.9)],
        "floor_ms": round(floor_ms, 3),
        "vllm_h200_ms": VLLM_H200_MS.get(shape, {}).get(batch),
        "first_prefill_seconds": round(prefill_seconds, 3),
    }
    print(row, flush=True)
    return row


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read plus bytes written per second of a large copy; median of ten."""
    num_bytes = (4 << 30) if device.type == "cuda" else (64 << 20)
    source = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(13):
        start = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * num_bytes / median(seconds[3:])


def print_table(record: dict[str, Any]) -> None:
    print(f"{record['device']}, copy {record['copy_bytes_per_second'] / 1e9:.0f} GB/s")
    print(
        f"{'shape':<18} {'batch':>6} {'graphs':>7} {'ms/step':>9} {'floor ms':>9} {'fraction':>9} {'vLLM H200 ms':>13}"
    )
    for r in record["results"]:
        ours = f"{r['ms_per_step']:>9} {r['floor_ms']:>9} {r['floor_ms'] / r['ms_per_step']:>9.2f}"
        print(f"{r['shape']:<18} {r['batch']:>6} {r['graphs']!s:>7} {ours} {r['vllm_h200_ms'] or '-':>13}")


def draw(record: dict[str, Any], path: Path) -> None:
    """Step time over batch, beside the floor and vLLM, one panel per shape."""
    import matplotlib.pyplot as plt

    shapes = sorted({r["shape"] for r in record["results"]})
    figure, axes = plt.subplots(1, len(shapes), figsize=(5 * len(shapes), 3.6), squeeze=False)
    for axis, shape in zip(axes[0], shapes, strict=True):
        rows = [r for r in record["results"] if r["shape"] == shape]
        for has_graphs, label in ((True, "native engine"), (False, "native engine, no CUDA graphs")):
            line = [r for r in rows if r["graphs"] is has_graphs]
            axis.plot([r["batch"] for r in line], [r["ms_per_step"] for r in line], "o-", label=label if line else None)
        batches = sorted({r["batch"] for r in rows})
        by_batch = {r["batch"]: r for r in rows}
        axis.plot(batches, [by_batch[b]["floor_ms"] for b in batches], "k:", label="floor (bytes / copy bandwidth)")
        if all(r["vllm_h200_ms"] for r in rows):
            axis.plot(
                batches,
                [by_batch[b]["vllm_h200_ms"] for b in batches],
                "s--",
                label="vLLM 0.26 on H200 (its copy: 4176 GB/s)",
            )
        axis.set(xscale="log", yscale="log", xlabel="sequences in the batch", ylabel="ms per decode step", title=shape)
        axis.set_xticks(batches, [str(b) for b in batches])
        axis.legend(fontsize=8)
    figure.suptitle(f"{record['device']}, {record['results'][0]['dtype']}, prompt {PROMPT}, random weights", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
