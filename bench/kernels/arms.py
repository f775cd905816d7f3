"""The implementations that are measured beside each other; native code only where this machine can build it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from proa_kernels.align_native import launch_align_native
from proa_kernels.arch import arch_of
from proa_kernels.gate import GateSpec
from proa_kernels.gate_native import launch_gate_native
from proa_kernels.gate_triton import launch_gate
from proa_kernels.moe_align_triton import launch_align
from proa_kernels.native import NativeUnavailable, Text, library

AlignLaunch = Callable[[torch.Tensor, int, torch.Tensor | None, torch.Tensor | None, tuple[torch.Tensor, ...]], None]
GateLaunch = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor, GateSpec], None]


def align_arms() -> Mapping[str, AlignLaunch]:
    return {"triton": launch_align, "native": launch_align_native} if _is_built("align") else {"triton": launch_align}


def gate_arms(spec: GateSpec, num_experts: int) -> Mapping[str, GateLaunch]:
    """Native code only where it takes the sizes, too."""
    if not _is_built("gate"):
        return {"triton": launch_gate}
    functions = library("gate", arch_of(torch.device("cuda")))
    is_served = functions.proa_gate_serves(num_experts, spec.num_groups)
    return {"triton": launch_gate, "native": launch_gate_native} if is_served else {"triton": launch_gate}


def _is_built(text: Text) -> bool:
    """Says why not."""
    try:
        library(text, arch_of(torch.device("cuda")))
    except NativeUnavailable as error:
        print(f"{text} native is left out: {error}")
        return False
    return True
