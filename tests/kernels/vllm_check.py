"""A real vLLM on the CPU with and without `proa_kernels.vllm.register`: same logits; run by the python that has vLLM.

    python tests/kernels/vllm_check.py CHECKPOINT      exits 1 with one line where something differs

Builds one engine with vLLM's own experts, then registers and builds another; a wrong layer, planted, must show.
"""

from __future__ import annotations

import os
import sys

os.environ |= {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}  # fmt: skip

import proa_kernels.vllm as ours
import torch
from vllm import LLM, SamplingParams

PROMPTS = [list(range(5, 45)), [7], list(range(300, 200, -3))]
# Experts, norms and logits are rounded to bfloat16 in another order: the largest difference of a logprob was 0.015.
LIMIT = 0.08


def logprobs(checkpoint: str) -> torch.Tensor:
    """Log probabilities of every prompt token but the first, and of eight greedy ones."""
    engine = LLM(
        checkpoint, dtype="bfloat16", max_model_len=256, enforce_eager=True, max_num_seqs=4, seed=0,
        kv_cache_memory_bytes=1 << 26, disable_log_stats=True, compilation_config={"custom_ops": ["-rotary_embedding"]},
    )  # fmt: skip
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    results = engine.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], params, use_tqdm=False)
    values = [
        next(iter(place.values())).logprob for result in results for place in result.prompt_logprobs or [] if place
    ]
    return torch.tensor(values)


def main() -> str:
    """What is wrong, or nothing."""
    checkpoint = sys.argv[1]
    stock = logprobs(checkpoint)
    calls = []
    run = ours.fused_experts

    def counted(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape[0])
        return run(x, *rest)

    ours.fused_experts = counted
    ours.register(on_cpu=True)
    ours.register(on_cpu=True)
    registered = logprobs(checkpoint)
    if not calls:
        return "the experts of proa were never called"
    difference = float((registered - stock).abs().max())
    ours.fused_experts = lambda x, *rest: run(x, *rest) * 1.5
    planted = float((logprobs(checkpoint) - stock).abs().max())
    print(f"{len(stock)} logprobs, {len(calls)} calls; largest difference {difference:.3f}, planted {planted:.3f}")
    if difference > LIMIT:
        return f"logprobs differ by {difference:.3f}"
    return "" if planted > LIMIT else f"a layer wrong by half changes logprobs by {planted:.3f} only"


if __name__ == "__main__":
    sys.exit(main() or 0)
