"""How fast a group of GPUs is likely to be, from data sheets: a roofline, not a measurement.

A step reads the weights that its tokens touch at a share of the memory's speed, and computes at a share of the peak.
The shares are what the H200 row of the simulated engine's cost model (vLLM, Qwen3-30B-A3B shapes) comes to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from proa_operator.autoscale.config import Speed

MEMORY_SHARE = 0.97
"""Of the data sheet's memory speed, when the weights of all experts are read."""
COMPUTE_SHARE = 0.60
"""Of the data sheet's matrix speed, for prompts."""
STEP_SECONDS = 3.0e-3
"""Launches and host work of a step, whatever is in it."""
SEQUENCE_SECONDS = 20e-6
WEIGHTS_SHARE = 0.70
"""Most of the memory that weights may take; the rest is KV cache and activations."""
KV_SHARE = 0.90
LATENCY_SECONDS = 2e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Data sheet of one GPU."""

    product: str
    memory_bytes: float
    bytes_per_second: float
    flops_bf16: float
    flops_fp8: float
    network_bytes_per_second: float
    """Of the network card that serves it: 400 Gbit/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A mixture-of-experts checkpoint."""

    name: str
    parameters: float
    active: float
    """Parameters that one token touches."""
    expert_share: float
    """Routed experts per token over all routed experts."""
    kv_bytes: float
    """KV cache of a token, at two bytes a number."""
    weight_bytes: float
    """Of one parameter, as published."""


_NET = 50e9
GPUS = {
    gpu.product: gpu
    for gpu in (
        Gpu(
            product="MI300X",
            memory_bytes=192e9,
            bytes_per_second=5.3e12,
            flops_bf16=1.307e15,
            flops_fp8=2.615e15,
            network_bytes_per_second=_NET,
        ),
        Gpu(
            product="MI325X",
            memory_bytes=256e9,
            bytes_per_second=6.0e12,
            flops_bf16=1.307e15,
            flops_fp8=2.615e15,
            network_bytes_per_second=_NET,
        ),
        Gpu(
            product="MI355X",
            memory_bytes=288e9,
            bytes_per_second=8.0e12,
            flops_bf16=2.5e15,
            flops_fp8=5.0e15,
            network_bytes_per_second=_NET,
        ),
        Gpu(
            product="H200",
            memory_bytes=141e9,
            bytes_per_second=4.8e12,
            flops_bf16=0.989e15,
            flops_fp8=1.979e15,
            network_bytes_per_second=_NET,
        ),
    )
}
_SHAPES = (
    ("deepseek-ai/DeepSeek-V3", 671e9, 37e9, 8 / 256, 61 * 576 * 2.0, 1.0),
    ("deepseek-ai/DeepSeek-R1", 671e9, 37e9, 8 / 256, 61 * 576 * 2.0, 1.0),
    ("Qwen/Qwen3-235B-A22B", 235e9, 22e9, 8 / 128, 94 * 4 * 128 * 2 * 2.0, 2.0),
    ("Qwen/Qwen3-30B-A3B", 30.5e9, 3.3e9, 8 / 128, 48 * 4 * 128 * 2 * 2.0, 2.0),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7e9, 12.9e9, 2 / 8, 32 * 8 * 128 * 2 * 2.0, 2.0),
)
SHAPES = {
    name: Shape(
        name=name, parameters=total, active=active, expert_share=share, kv_bytes=kv_bytes, weight_bytes=weight_bytes
    )
    for name, total, active, share, kv_bytes, weight_bytes in _SHAPES
}
GROUPS = (1, 2, 4, 8, 16, 32)


def least_group(shape: Shape, gpu: Gpu) -> int | None:
    """Fewest GPUs whose memory holds the weights and leaves room for the KV cache; None where even 32 are too few."""
    need = shape.parameters * shape.weight_bytes
    return next((size for size in GROUPS if need <= WEIGHTS_SHARE * size * gpu.memory_bytes), None)


def estimate(shape: Shape, gpu: Gpu, num_gpus: int) -> Speed:
    """Of a group with so many GPUs; start-up is reading the weights at 2 GB/s, and a minute."""
    memory = MEMORY_SHARE * gpu.bytes_per_second * num_gpus
    flops = COMPUTE_SHARE * num_gpus * (gpu.flops_fp8 if shape.weight_bytes <= 1.0 else gpu.flops_bf16)
    weights = shape.parameters * shape.weight_bytes
    dense = (shape.active - shape.expert_share * shape.parameters) / (1.0 - shape.expert_share)
    experts = shape.parameters - dense
    free = KV_SHARE * num_gpus * gpu.memory_bytes - weights
    return Speed(
        step_base=STEP_SECONDS + dense * shape.weight_bytes / memory,
        step_experts=experts * shape.weight_bytes / memory,
        expert_share=shape.expert_share,
        prefill_token=2.0 * shape.active / flops,
        prefill_pair=0.0,
        decode_seq=SEQUENCE_SECONDS,
        decode_context_token=shape.kv_bytes / memory,
        kv_bytes_per_token=shape.kv_bytes,
        kv_cache_tokens=float(math.floor(free / shape.kv_bytes)),
        transfer_latency=LATENCY_SECONDS,
        transfer_bytes_per_second=gpu.network_bytes_per_second * num_gpus,
        startup=float(math.ceil(60.0 + weights / 2e9)),
        max_step_tokens=8192,
    )
