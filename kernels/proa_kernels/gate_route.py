"""Router and gate of few tokens: x [T, H] to experts and weights in two launches.

Legend as in gate.py; H hidden, Z splits of H. A product of so few rows and columns occupies a handful of programs, each
of which waits for all of H. Here the depth is split over programs too, and the gate sums their parts while it loads.
"""

from __future__ import annotations

from typing import Any

import torch

from proa_kernels.arch import arm_for
from proa_kernels.gate import (
    SPEC_SCHEMA,
    GateSpec,
    check_gate,
    choose,
    empty_choice,
    gate,
    gate_ref,
    spec_of,
    spec_values,
)

MAX_SPLIT_TOKENS = 512


def route(
    x_TH: torch.Tensor, w_EH: torch.Tensor, spec: GateSpec, bias_E: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`gate` of x w^T, summed in float32 and rounded to the dtype of `w_EH`: bfloat16 or float32, both contiguous.

    Raises ValueError for what does not fit.
    """
    if x_TH.shape[1] != w_EH.shape[1] or not x_TH.is_contiguous() or not w_EH.is_contiguous():
        raise ValueError(f"router {tuple(w_EH.shape)} does not fit contiguous activations {tuple(x_TH.shape)}")
    # The kernel widens activations for a float32 router; else tensor cores want both of one dtype.
    is_served = w_EH.dtype == torch.float32 or x_TH.dtype == w_EH.dtype == torch.bfloat16
    if x_TH.shape[0] > MAX_SPLIT_TOKENS or not is_served:
        return gate(torch.nn.functional.linear(x_TH.to(w_EH.dtype), w_EH), spec, bias_E)
    check_gate(x_TH.new_empty(0, w_EH.shape[0]), spec, bias_E)
    weights, ids = torch.ops.proa.route(x_TH, w_EH, bias_E, *spec_values(spec))
    return weights, ids


@torch.library.custom_op(
    "proa::route", mutates_args=(), schema=f"(Tensor x, Tensor w, Tensor? bias, {SPEC_SCHEMA}) -> (Tensor, Tensor)"
)
def _route_op(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, *values: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    spec = spec_of(values)
    if arm_for("route", x.device) == "reference":
        return gate_ref(torch.nn.functional.linear(x.to(w.dtype), w), spec, bias)
    from proa_kernels.gate_route_triton import launch_router  # the reference needs no Triton

    weights, ids = empty_choice(x, spec)
    choose(launch_router(x, w), bias, weights, ids, spec, is_rounded=w.dtype == torch.bfloat16)
    return weights, ids


@_route_op.register_fake
def _route_fake(x: torch.Tensor, *arguments: Any) -> tuple[torch.Tensor, ...]:
    return empty_choice(x, spec_of(arguments[2:]))
