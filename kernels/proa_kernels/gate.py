"""Gate: experts and weights of each token from its router logits.

Legend: T tokens, E routed experts, A = top_k + num_shared experts per token, G groups of E / G experts.

Scores are softmax or sigmoid of the logits; the choice is made on score + bias, the weight is the score alone.
With groups (DeepSeek-V2 and -V3, node-limited routing) only the best `top_groups` groups stay in the choice, rated by
their best expert or by the sum of their best two. Ties go to the lower id; NaN counts as the largest score, as in
torch.topk, so ids are always valid.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Literal

import torch

from proa_kernels.arch import arm_for
from proa_kernels.gate_native import launch_gate_native, serves_gate

MAX_TOP_K = 16
MAX_EXPERTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSpec:
    """How a model routes; field names as in its configuration.

    `num_shared` experts that every token uses follow the routed ones: ids E, E + 1, ... with weight 1.
    """

    top_k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    renormalize: bool = True
    scale: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    group_score: Literal["max", "top2"] = "max"
    num_shared: int = 0


def gate(
    logits_TE: torch.Tensor, spec: GateSpec, bias_E: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights float32 [T, A] and ids int32 [T, A], best first. `logits_TE` contiguous float32, bfloat16 or float16.

    Raises ValueError for wrong shapes, dtypes, or a spec that the logits cannot satisfy.
    """
    check_gate(logits_TE, spec, bias_E)
    weights, ids = torch.ops.proa.gate(logits_TE, bias_E, *spec_values(spec))
    return weights, ids


def spec_values(spec: GateSpec) -> tuple[int | float | str | bool, ...]:
    """The fields of `spec` as an op takes them, see `SPEC_SCHEMA`."""
    return astuple(spec)


def check_gate(logits_TE: torch.Tensor, spec: GateSpec, bias_E: torch.Tensor | None) -> None:
    """Raises ValueError for shapes, types and counts that the kernels do not take."""
    if logits_TE.dim() != 2 or not logits_TE.is_contiguous() or not logits_TE.is_floating_point():
        raise ValueError(f"logits must be contiguous floats [T, E], not {logits_TE.dtype} {tuple(logits_TE.shape)}")
    num_experts = logits_TE.shape[1]
    if not 1 <= spec.top_k <= min(num_experts, MAX_TOP_K) or num_experts > MAX_EXPERTS:
        raise ValueError(f"top_k {spec.top_k} of {num_experts} experts; limits: {MAX_TOP_K} of {MAX_EXPERTS}")
    if bias_E is not None and not (
        bias_E.dtype == torch.float32 and bias_E.is_contiguous() and bias_E.shape == logits_TE.shape[1:]
    ):
        raise ValueError(f"bias must be contiguous float32 [{num_experts}], not {bias_E.dtype} {tuple(bias_E.shape)}")
    if spec.num_groups == 1:
        return
    size = num_experts // spec.num_groups
    if num_experts != size * spec.num_groups or size < 2:
        raise ValueError(f"{num_experts} experts do not make {spec.num_groups} groups of two and more")
    if not 1 <= spec.top_groups <= spec.num_groups or spec.top_groups * size < spec.top_k:
        raise ValueError(f"{spec.top_groups} of {spec.num_groups} groups of {size} cannot hold top_k {spec.top_k}")


def gate_ref(
    logits_TE: torch.Tensor, spec: GateSpec, bias_E: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain torch, in float32."""
    logits = logits_TE.float()
    scores_TE = logits.softmax(-1) if spec.score == "softmax" else logits.sigmoid()
    # A softmax with a NaN has no order left; the logits still do.
    choice_TE = logits if spec.score == "softmax" and spec.num_groups == 1 and bias_E is None else scores_TE
    choice_TE = choice_TE if bias_E is None else choice_TE + bias_E
    if spec.num_groups > 1:
        choice_TE = keep_best_groups(choice_TE, spec)
    ids_TA = choice_TE.sort(dim=-1, descending=True, stable=True).indices[:, : spec.top_k]
    weights_TA = scores_TE.gather(1, ids_TA)
    if spec.renormalize:
        weights_TA = weights_TA / (weights_TA.sum(-1, keepdim=True) + 1e-20)
    shared_S = torch.arange(spec.num_shared, device=ids_TA.device) + logits_TE.shape[1]
    ids_TA = torch.cat([ids_TA, shared_S.expand(len(ids_TA), -1)], dim=1)
    weights_TA = torch.nn.functional.pad(weights_TA * spec.scale, (0, spec.num_shared), value=1.0)
    return weights_TA, ids_TA.to(torch.int32)


def keep_best_groups(choice_TE: torch.Tensor, spec: GateSpec) -> torch.Tensor:
    """`choice_TE` with -inf outside each token's `top_groups` best groups (node-limited routing)."""
    grouped = choice_TE.view(choice_TE.shape[0], spec.num_groups, choice_TE.shape[1] // spec.num_groups)
    best = grouped.sort(dim=-1, descending=True).values
    rating_TG = best[..., 0] if spec.group_score == "max" else best[..., 0] + best[..., 1]
    kept = rating_TG.sort(dim=-1, descending=True, stable=True).indices[:, : spec.top_groups]
    is_dropped = torch.ones_like(rating_TG, dtype=torch.bool).scatter_(1, kept, False)
    kept_TE: torch.Tensor = grouped.masked_fill(is_dropped[..., None], float("-inf")).flatten(1)
    return kept_TE


SPEC_SCHEMA = (
    "int top_k, str score, bool renormalize, float scale, int num_groups, int top_groups, str group_score,"
    " int num_shared"
)


def spec_of(values: tuple[Any, ...]) -> GateSpec:
    """Inverse of `spec_values`."""
    return GateSpec(**dict(zip(GateSpec.__slots__, values, strict=True)))


@torch.library.custom_op(
    "proa::gate", mutates_args=(), schema=f"(Tensor logits, Tensor? bias, {SPEC_SCHEMA}) -> (Tensor, Tensor)"
)
def _gate_op(logits: torch.Tensor, bias: torch.Tensor | None, *values: Any) -> tuple[torch.Tensor, torch.Tensor]:
    spec = spec_of(values)
    if arm_for("gate", logits.device) == "reference":
        return gate_ref(logits, spec, bias)
    weights, ids = empty_choice(logits, spec)
    choose(logits, bias, weights, ids, spec)
    return weights, ids


def choose(
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor,
    ids: torch.Tensor,
    spec: GateSpec,
    is_rounded: bool = False,
) -> None:
    """Fill `weights` and `ids` by the native arm where it is the device's and takes this gate, else by Triton."""
    if arm_for("gate", logits.device) == "native" and serves_gate(logits, bias, spec):
        launch_gate_native(logits, bias, weights, ids, spec, is_rounded)
        return
    from proa_kernels.gate_triton import launch_gate  # the reference needs no Triton

    launch_gate(logits, bias, weights, ids, spec, is_rounded=is_rounded)


@_gate_op.register_fake
def _gate_fake(logits: torch.Tensor, _: torch.Tensor | None, *values: Any) -> tuple[torch.Tensor, ...]:
    return empty_choice(logits, spec_of(values))


def empty_choice(rows: torch.Tensor, spec: GateSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Unwritten weights and ids for the tokens of `rows` [T, ...]."""
    weights = rows.new_empty((rows.shape[0], spec.top_k + spec.num_shared), dtype=torch.float32)
    return weights, torch.empty_like(weights, dtype=torch.int32)
