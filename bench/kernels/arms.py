"""The implementations that are measured beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from proa_kernels.arch import arch_of
from proa_kernels.moe_align_triton import launch_align
from proa_kernels.native import NativeUnavailable, launch_align_native, library

AlignLaunch = Callable[[torch.Tensor, int, torch.Tensor | None, torch.Tensor | None, tuple[torch.Tensor, ...]], None]


def align_arms() -> Mapping[str, AlignLaunch]:
    """Native code only where this machine can build it; says so otherwise."""
    try:
        library(arch_of(torch.device("cuda")))
    except NativeUnavailable as error:
        print(f"align native is left out: {error}")
        return {"triton": launch_align}
    return {"triton": launch_align, "native": launch_align_native}
