"""The implementations that are measured beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from proa_kernels.moe_align_triton import launch_align

AlignLaunch = Callable[[torch.Tensor, int, torch.Tensor | None, torch.Tensor | None, tuple[torch.Tensor, ...]], None]
ALIGN_ARMS: Mapping[str, AlignLaunch] = {"triton": launch_align}
