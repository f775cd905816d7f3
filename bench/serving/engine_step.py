"""Milliseconds per decode step of the native engine with random weights made on the device.

    python -m bench.serving.engine_step --shape qwen3-30b-a3b --out bench/serving/engine_step.json
    python -m bench.serving.engine_step --shape tiny --device cpu --out /tmp/dry.json     (dry run)

First `device_check` and `ahead_check` must pass. Then, per batch size, as CUDA graphs where there are any (`--eager`:
and without): prompts of 128 random tokens through the worker's loop, 64 decode steps with growing context, median time
from one step's tokens on the host to the next one's; once as the loop runs on this device (the next step starts from
tokens on the device), once with every step waiting for the host (`synchronous_ms`); how many of both runs' outputs are
equal is recorded. The floor is the time to read the weights that the batch touches and its keys and values once, at the
copy bandwidth measured here (bytes read plus bytes written). Then prefill of 16 prompts of 2048 tokens in chunks of
8192, the better of two rounds after one that compiles; `--profile` names the kernels of a decode step.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from proa_workers.core.params import SamplingParams
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings
from proa_workers.profile.drive import Sequences

from bench.serving.ahead_check import check_ahead, run_both, synchronous
from bench.serving.device_check import check_device
from bench.serving.loop_steps import EXTRA_TOKENS, greedy, run_loop
from bench.serving.provenance import ROOT, provenance
from bench.serving.shapes import SHAPES, decode_step_bytes

PROMPT, STEPS, BLOCK_TOKENS = 128, 64, 32
PREFILL_PROMPTS, PREFILL_TOKENS, PREFILL_CHUNK = 16, 2048, 8192
PROFILED_STEPS = 4
# vLLM 0.26.0 on one H200, bf16, CUDA graphs, mean context 256 (anchors of the project).
VLLM_H200_MS = {
    "qwen3-30b-a3b": {1: 4.10, 8: 8.89, 32: 15.0, 128: 18.7, 256: 21.9},
    "deepseek-v2-lite": {1: 3.29, 8: 6.47, 32: 9.33, 128: 11.0, 256: 11.9},
}
VLLM_H200_PREFILL = {"qwen3-30b-a3b": 67_900.0, "deepseek-v2-lite": 70_300.0}


def main() -> None:
    """Check the engine first, then measure every shape and batch size into one JSON file and its plot."""
    args = parse_args()
    if args.redraw:
        draw(json.loads(args.out.read_text(encoding="utf-8")), args.out.with_suffix(".png"))
        return
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    record: dict[str, Any] = {**provenance(), "prompt_tokens": PROMPT, "decode_steps": STEPS}
    record["checks"] = check_device(device)
    record["ahead_checks"] = check_ahead(device)
    record["copy_bytes_per_second"] = copy_bandwidth(torch.device(device))
    print(f"copy bandwidth {record['copy_bytes_per_second'] / 1e9:.0f} GB/s", flush=True)
    record["results"] = []
    for shape in args.shape:
        engine = build(shape, device, max(args.batches))
        rows = [measure_batch(engine, shape, batch, record["copy_bytes_per_second"]) for batch in args.batches]
        record["results"] += rows
        if engine.info.device != "cpu":
            record.setdefault("prefill", []).append(measure_prefill(engine, shape))
        if args.profile:
            record.setdefault("profiles", []).extend(profile(engine, shape, batch) for batch in args.batches)
        if args.eager and engine.graphs is not None:
            engine.graphs = None
            bandwidth = record["copy_bytes_per_second"]
            record["results"] += [measure_batch(engine, shape, batch, bandwidth) for batch in args.batches]
        engine.close()
        del engine
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print_table(record)


def parse_args() -> argparse.Namespace:
    """Batches are concurrent sequences; each shape builds its own engine for the largest of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=sorted(SHAPES), default=["qwen3-30b-a3b"])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 256])
    parser.add_argument("--eager", action="store_true", help="measure steps without CUDA graphs as well")
    parser.add_argument("--profile", action="store_true", help="record the time of each kernel of a decode step")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/serving/engine_step.json")
    parser.add_argument("--redraw", action="store_true", help="only draw the plot of an existing --out")
    return parser.parse_args()


def build(shape: str, device: str, largest_batch: int) -> NativeEngine:
    """An engine of random weights whose KV pool holds the largest batch to its end."""
    start = time.perf_counter()
    is_gpu = device == "cuda"
    length = PROMPT + STEPS + EXTRA_TOKENS + 2
    longest = PREFILL_TOKENS + 2 if is_gpu else length
    num_tokens = max(largest_batch * length, PREFILL_PROMPTS * longest if is_gpu else 0)
    settings = NativeSettings(
        device="cuda" if is_gpu else "cpu",
        block_tokens=BLOCK_TOKENS,
        max_model_len=longest,
        num_blocks=num_tokens // BLOCK_TOKENS + largest_batch,
    )
    engine = NativeEngine.with_random_weights(SHAPES[shape], settings)
    print(f"{shape}: weights made in {time.perf_counter() - start:.1f} s, {engine.info.dtype}", flush=True)
    return engine


def random_prompts(shape: str, count: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    prompts: list[list[int]] = torch.randint(0, SHAPES[shape].vocab_size, (count, length), generator=generator).tolist()
    return prompts


def measure_prefill(engine: NativeEngine, shape: str) -> dict[str, Any]:
    """Prompt tokens per second through the worker's loop, with the first tokens on the host at the end."""
    prompts = random_prompts(shape, PREFILL_PROMPTS, PREFILL_TOKENS)
    params = [SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)] * PREFILL_PROMPTS
    seconds = [run_loop(engine, prompts, params, PREFILL_CHUNK).total_seconds for _ in range(3)]
    row = {
        "shape": shape,
        "tokens_per_second": round(PREFILL_PROMPTS * PREFILL_TOKENS / min(seconds[1:])),
        "vllm_h200_tokens_per_second": VLLM_H200_PREFILL.get(shape),
        "seconds": [round(s, 3) for s in seconds],
    }
    print(row, flush=True)
    return row


def profile(engine: NativeEngine, shape: str, batch: int) -> dict[str, Any]:
    """Microseconds and launches per decode step of the kernels that take most."""
    with synchronous(engine):
        sequences = Sequences(engine, random_prompts(shape, batch, PROMPT), STEPS + 2)
    sequences.prefill(chunk_tokens=4096)
    sequences.decode()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED_STEPS):
            sequences.decode()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    kernels = [
        {
            "kernel": event.key[:90],
            "us": round(event.self_device_time_total / PROFILED_STEPS, 1),
            "launches": event.count / PROFILED_STEPS,
        }
        for event in events
        if event.self_device_time_total
    ]
    total = round(sum(kernel["us"] for kernel in kernels))
    print(f"{shape} batch {batch}: {total} us in {sum(k['launches'] for k in kernels):.0f} kernels a step", flush=True)
    return {"shape": shape, "batch": batch, "kernels_us": total, "kernels": kernels[:16]}


def measure_batch(engine: NativeEngine, shape: str, batch: int, bandwidth: float) -> dict[str, Any]:
    """One row: milliseconds a step, beside the time to read the weights and KV at `bandwidth` bytes/s."""
    prompts = random_prompts(shape, batch, PROMPT)
    params = [greedy(STEPS)] * batch
    run_loop(engine, prompts, params)  # compiles and captures
    run, twin = run_both(engine, prompts, params)
    seconds = sorted(run.seconds[:STEPS])
    element_bytes = 4 if engine.info.dtype == "float32" else 2
    floor_ms = 1000 * decode_step_bytes(SHAPES[shape], batch, PROMPT + STEPS / 2, element_bytes) / bandwidth
    row = {
        "shape": shape,
        "batch": batch,
        "dtype": engine.info.dtype,
        "graphs": engine.graphs is not None,
        "arms": f"{engine.arms.attention}/{engine.arms.for_tokens(batch)}",
        "ms_per_step": round(1000 * median(seconds), 3),
        "ms_p10_p90": [round(1000 * seconds[int(len(seconds) * q)], 3) for q in (0.1, 0.9)],
        "synchronous_ms": round(1000 * median(twin.seconds[:STEPS]), 3),
        "steps_ahead": run.steps_ahead,
        "equal_outputs": sum(a == b for a, b in zip(run.outputs, twin.outputs, strict=True)),
        "floor_ms": round(floor_ms, 3),
        "vllm_h200_ms": VLLM_H200_MS.get(shape, {}).get(batch),
        "norm_arm": engine.arms.norm,
        "gate_arm": engine.arms.gate,
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
    """Milliseconds per step beside the floor (bytes over the copy bandwidth of the same run) and vLLM's time."""
    print(f"{record['device']}, copy {record['copy_bytes_per_second'] / 1e9:.0f} GB/s")
    print(
        f"{'shape':<18} {'batch':>6} {'graphs':>7} {'ms/step':>9} {'waiting':>9} {'floor ms':>9} {'fraction':>9}"
        f" {'vLLM H200 ms':>13}"
    )
    for r in record["results"]:
        floor = f"{r['floor_ms']:>9} {r['floor_ms'] / r['ms_per_step']:>9.2f}"
        ours = f"{r['ms_per_step']:>9} {r['synchronous_ms']:>9} {floor}"
        print(f"{r['shape']:<18} {r['batch']:>6} {r['graphs']!s:>7} {ours} {r['vllm_h200_ms'] or '-':>13}")


def draw(record: dict[str, Any], path: Path) -> None:
    """Step time over batch, beside the floor and vLLM, one panel per shape."""
    import matplotlib.pyplot as plt

    shapes = sorted({r["shape"] for r in record["results"]})
    figure, axes = plt.subplots(1, len(shapes), figsize=(5 * len(shapes), 3.6), squeeze=False)
    for axis, shape in zip(axes[0], shapes, strict=True):
        rows = [r for r in record["results"] if r["shape"] == shape]
        for has_graphs, name in ((True, "native engine"), (False, "native engine, no CUDA graphs")):
            line = [r for r in rows if r["graphs"] is has_graphs]
            for key, style, waits in (
                ("ms_per_step", "o-", ""),
                ("synchronous_ms", ".--", ", every step waits for the host"),
            ):
                label = f"{name}{waits}" if line else None
                axis.plot([r["batch"] for r in line], [r[key] for r in line], style, label=label)
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
