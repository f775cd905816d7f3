"""Decode tokens/s of the native engine beside `transformers` generate, same checkpoint and batch, CPU, float32.

    python -m bench.serving.engine_vs_transformers [--model FOLDER] [--out FILE.json]

Both sides run greedy, alternately, in one process. A round's decode rate leaves the prompt out:
batch * (tokens - 1) / (time of `tokens` tokens - time of one token). The ratio is that of the medians over rounds;
texts are compared token by token.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from proa_workers.engine.native import NativeEngine
from proa_workers.engine.native_settings import NativeSettings
from proa_workers.profile.drive import Sequences

from bench.serving.provenance import ROOT, provenance

PROMPT_TOKENS = 32
MIN_RATIO = 1.5


def main() -> None:
    """Decode with both at batch 1 and 16. Exit status 1 when the engine is less than MIN_RATIO times as fast."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    longest = PROMPT_TOKENS + args.tokens
    settings = NativeSettings(dtype="float32", device="cpu", max_model_len=longest, num_blocks=16 * (-(-longest // 32)))
    engine = NativeEngine.from_checkpoint(args.model, settings)
    oracle = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    oracle.generation_config.eos_token_id = None
    results = [compare(engine, oracle, batch, args.tokens, args.rounds) for batch in (1, 16)]
    engine.close()
    record = {**provenance(), "transformers": transformers.__version__, "model": args.model.name, "results": results}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print_table(results)
    slow = [r["batch"] for r in results if r["ratio"] < MIN_RATIO]
    if slow:
        raise SystemExit(f"ratio below {MIN_RATIO} at batch {slow}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "examples/models/tiny-moe")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/serving/engine_vs_transformers.json")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def compare(engine: NativeEngine, oracle: torch.nn.Module, batch: int, tokens: int, rounds: int) -> dict[str, float]:
    """Medians over `rounds`, in turns and after one that warms up; decode tokens/s, prefill left out."""
    generator = torch.Generator().manual_seed(batch)
    prompts_BT = torch.randint(0, engine.info.vocab_size, (batch, PROMPT_TOKENS), generator=generator)
    native, hugging, num_equal = [], [], 0
    for _ in range(rounds + 1):
        seconds, ours = run_native(engine, prompts_BT, tokens)
        native.append(batch * (tokens - 1) / seconds)
        seconds, theirs = run_transformers(oracle, prompts_BT, tokens)
        hugging.append(batch * (tokens - 1) / seconds)
        num_equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return {
        "batch": batch,
        "native_tokens_per_second": round(median(native[1:]), 1),
        "transformers_tokens_per_second": round(median(hugging[1:]), 1),
        "ratio": round(median(native[1:]) / median(hugging[1:]), 2),
        "native_ms_per_step": round(1000 * batch / median(native[1:]), 3),
        "num_equal_texts": num_equal,
    }


def run_native(engine: NativeEngine, prompts_BT: torch.Tensor, tokens: int) -> tuple[float, list[list[int]]]:
    """Seconds of the tokens after the first, and all output ids."""
    sequences = Sequences(engine, prompts_BT.tolist(), tokens)
    sequences.prefill(chunk_tokens=prompts_BT.numel())
    return sum(sequences.decode().seconds for _ in range(tokens - 1)), sequences.outputs


def run_transformers(oracle: torch.nn.Module, prompts_BT: torch.Tensor, tokens: int) -> tuple[float, list[list[int]]]:
    first, _ = generate(oracle, prompts_BT, 1)
    total, outputs = generate(oracle, prompts_BT, tokens)
    return total - first, outputs


def generate(oracle: torch.nn.Module, prompts_BT: torch.Tensor, tokens: int) -> tuple[float, list[list[int]]]:
    """Seconds, and the new ids of each prompt, greedily."""
    start = time.perf_counter()
    ids_BT = oracle.generate(  # type: ignore[operator]
        prompts_BT,
        attention_mask=torch.ones_like(prompts_BT),
        max_new_tokens=tokens,
        do_sample=False,
    )
    return time.perf_counter() - start, ids_BT[:, prompts_BT.shape[1] :].tolist()


def print_table(results: list[dict[str, float]]) -> None:
    print(f"{'batch':>6} {'native tok/s':>14} {'transformers tok/s':>20} {'ratio':>7} {'equal texts':>12}")
    for r in results:
        print(
            f"{r['batch']:>6} {r['native_tokens_per_second']:>14} {r['transformers_tokens_per_second']:>20}"
            f" {r['ratio']:>7} {r['num_equal_texts']:>9}/{r['batch']}"
        )


if __name__ == "__main__":
    main()
