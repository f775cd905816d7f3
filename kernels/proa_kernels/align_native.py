"""align & sort by `align.cu`, with the interface of `moe_align_triton.launch_align`."""

from __future__ import annotations

import torch

from proa_kernels.arch import arch_of, whole_xcds
from proa_kernels.native import current_stream, is_available, library, pointer

MAX_EXPERTS = 512
MAX_NATIVE_BLOCKS = 256  # of the two launches; two share a multiprocessor, and each reads the whole count matrix


def serves_align(ids_TA: torch.Tensor, num_experts: int) -> bool:
    """Whether the native arm takes these ids on this machine; its loads are 16 bytes wide."""
    is_fitting = num_experts <= MAX_EXPERTS and ids_TA.data_ptr() % 16 == 0
    return is_fitting and is_available("align", arch_of(ids_TA.device))


def launch_align_native(
    ids_TA: torch.Tensor,
    block_rows: int,
    expert_map: torch.Tensor | None,
    num_tokens: torch.Tensor | None,
    outputs: tuple[torch.Tensor, ...],
) -> None:
    """Fill `outputs` (the fields of an Alignment, in order) on the stream of the ids, see `serves_align`."""
    arch = arch_of(ids_TA.device)
    functions = library("align", arch)
    num_pairs, num_experts = ids_TA.numel(), outputs[4].numel()
    if num_experts > MAX_EXPERTS or ids_TA.data_ptr() % 16:
        raise ValueError(f"native align wants at most {MAX_EXPERTS} experts and aligned ids; use the Triton arm")
    max_blocks = whole_xcds(MAX_NATIVE_BLOCKS, arch.num_xcds)
    size = functions.proa_align_workspace(num_pairs, num_experts, max_blocks)
    workspace = torch.empty(size, dtype=torch.uint8, device=ids_TA.device)
    error = functions.proa_align(
        pointer(ids_TA), pointer(expert_map), pointer(num_tokens), num_pairs, ids_TA.shape[1], num_experts,
        0 if expert_map is None else expert_map.numel(), block_rows.bit_length() - 1, max_blocks,
        pointer(workspace), *map(pointer, outputs), current_stream(),
    )  # fmt: skip
    if error:
        raise RuntimeError(f"native align could not be launched: error {error}")
