"""One check of each kernel family at awkward sizes, on a GPU or in Triton's interpreter on a CPU.

A check gives "" or what is wrong: results against the float32 reference, poison in outputs, canaries around them. The
sizes are ragged (no multiple of a tile), with ids outside the experts, empty rows and single tokens among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from proa_kernels.aiter_arm import AiterExperts, why_no_aiter
from proa_kernels.align_native import launch_align_native
from proa_kernels.arch import ROW_TILES, DecodeBlocks, GemmBlocks, arch_of
from proa_kernels.gate import GateSpec, gate_ref
from proa_kernels.gate_native import launch_gate_native
from proa_kernels.gate_route_triton import launch_router
from proa_kernels.gate_triton import launch_gate
from proa_kernels.moe_align import align_ref, empty_alignment
from proa_kernels.moe_align_triton import launch_align
from proa_kernels.moe_gemm import combine_ref
from proa_kernels.moe_gemm_launch import launch_combine
from proa_kernels.native import NativeUnavailable, Text, library
from proa_kernels.norm import rms_norm_ref
from proa_kernels.norm_triton import launch_rms_norm
from proa_kernels.quant import quantize_ref, silu_mul_ref
from proa_kernels.quant_triton import launch_quant, launch_silu_mul
from proa_kernels.tables import Kind, LayerShape, gemm_blocks
from proa_kernels.tables import decode_blocks as blocks_for_few
from proa_kernels.testing import Guarded, alignment_faults, poison_, relative_error, tolerance
from proa_kernels.timing import float8_of
from proa_kernels.tune_candidates import PRODUCTS
from proa_kernels.tune_checks import check_decode, check_gemm
from proa_kernels.tune_problem import Problem

# The interpreter runs scalar loops: smaller experts there, and the smallest row tile alone.
SMALL = {"cuda": LayerShape(num_experts=9, per_token=3, hidden=640, width=384),
         "cpu": LayerShape(num_experts=5, per_token=2, hidden=256, width=128)}  # fmt: skip
CPU_GEMM = GemmBlocks(rows=16, cols=32, depth=64, group=2, num_warps=1, num_stages=1)
CPU_DECODE = DecodeBlocks(cols=32, depth=128, num_warps=1)
KINDS: tuple[Kind, Kind] = ("bf16", "a16w8")
# Three pairs a token. In native text 300 tokens take one launch; of the many, for GPUs only because the interpreter
# would take minutes, two numbers rank small and large tiles, and the last places.
TOKENS, MANY_TOKENS = (1, 17, 300), (6_667, 100_000, 200_000)
EPS = 1e-6
Check = Callable[[], str]


def half_of(device: torch.device) -> torch.dtype:
    """The interpreter computes bfloat16 wrongly."""
    return torch.bfloat16 if device.type == "cuda" else torch.float16


def checks(device: torch.device) -> Iterator[tuple[str, Check]]:
    """Name and check of every family on this device; a check returns "" or what is wrong."""
    is_gpu = device.type == "cuda"
    for tokens in TOKENS + MANY_TOKENS if is_gpu else TOKENS:
        yield f"align {tokens}", partial(check_align, device, tokens, is_native=False)
    for name, spec in GATES.items():
        yield f"gate {name}", partial(check_gate, device, spec, is_native=False)
    if is_gpu:
        for tokens in (300, *MANY_TOKENS):
            check = partial(check_align, device, tokens, is_native=True)
            yield f"align native {tokens}", partial(if_built, "align", device, check)
        for name, spec in GATES.items():
            check = partial(check_gate, device, spec, is_native=True)
            yield f"gate native {name}", partial(if_built, "gate", device, check)
    yield "route", partial(check_route, device)
    yield from layer_checks(device)
    if arch_of(device).name.startswith("gfx"):
        yield "aiter experts", partial(check_aiter, device)
    yield "combine", partial(check_combine, device)
    for size in (40, 1000):
        yield f"rms_norm {size}", partial(check_norm, device, size)
    yield "quantize", partial(check_quant, device)
    yield "silu_mul", partial(check_silu, device)


def layer_checks(device: torch.device) -> Iterator[tuple[str, Check]]:
    """Both products under every row tile, and the launches for few pairs, with the blocks that would run."""
    arch, shape, on_gpu = arch_of(device), SMALL[device.type], device.type == "cuda"
    for kind in KINDS:
        is_scaled = kind == "a16w8"
        for rows in ROW_TILES if on_gpu else ROW_TILES[:1]:
            both = gemm_blocks(None, arch, rows, has_scale_blocks=is_scaled) if on_gpu else (CPU_GEMM, CPU_GEMM)
            for which, blocks in zip(PRODUCTS, both, strict=True):
                name = f"gemm{which} {kind} row tile {rows}"
                yield name, partial(check_gemm, device, kind, which, blocks, shape, 150 if on_gpu else 9)
        few = blocks_for_few(None, arch, 1, is_scaled=is_scaled) if on_gpu else (CPU_DECODE, CPU_DECODE)
        for which, few_blocks in zip(PRODUCTS, few, strict=True):
            yield f"decode{which} {kind}", partial(check_decode, device, kind, which, few_blocks, shape)


def if_built(text: Text, device: torch.device, check: Check) -> str:
    """The verdict of `check` where a compiler here builds the native kernels."""
    try:
        library(text, arch_of(device))
    except NativeUnavailable as error:
        return f"not built: {error}"
    return check()


def check_align(device: torch.device, tokens: int, *, is_native: bool) -> str:
    """Ids outside the experts on both sides; 65 experts are one more than a wave of 64 counts at once."""
    launch = launch_align_native if is_native else launch_align
    ids = torch.randint(-1, 67, (tokens, 3), device=device, dtype=torch.int32)
    guards = [
        Guarded.empty((t.numel(),), torch.int32, device) for t in empty_alignment(ids.numel(), 65, 16, device).tensors()
    ]
    outputs = tuple(guard.tensor for guard in guards)
    launch(ids, 16, None, None, outputs)
    faults = alignment_faults(outputs, align_ref(ids, 65, 16), 16)
    faults += [] if all(guard.is_intact() for guard in guards) else ["canaries"]
    return f"differs in {', '.join(faults)}" if faults else ""


GATES = {
    "softmax": GateSpec(top_k=3, num_shared=1),
    "groups": GateSpec(
        top_k=4, score="sigmoid", num_groups=4, top_groups=2, group_score="top2", scale=2.5, renormalize=False
    ),
}


def check_gate(device: torch.device, spec: GateSpec, *, is_native: bool) -> str:
    """Experts and weights of 37 tokens against the reference; one token may choose otherwise on a near tie."""
    num_experts = 64 if spec.num_groups > 1 else 40
    logits = torch.randn(37, num_experts, device=device)
    bias = torch.randn(num_experts, device=device) / 8 if spec.num_groups > 1 else None
    columns = spec.top_k + spec.num_shared
    weights = Guarded.empty((37, columns), torch.float32, device)
    ids = Guarded.empty((37, columns), torch.int32, device)
    (launch_gate_native if is_native else launch_gate)(logits, bias, weights.tensor, ids.tensor, spec)
    weights_ref, ids_ref = gate_ref(logits, spec, bias)
    if not weights.is_intact() or not ids.is_intact():
        return "wrote outside its outputs"
    # Device exponentials differ in the last bit, so scores that are all but equal may swap.
    is_same = (ids.tensor == ids_ref).all(1)
    if int((~is_same).sum()) > 1:
        return f"{int((~is_same).sum())} of 37 tokens chose other experts"
    error = relative_error(weights.tensor[is_same], weights_ref[is_same])
    return "" if error < 1e-5 else f"weights off by {error:.1e}"


def check_route(device: torch.device) -> str:
    x = torch.randn(17, 300, device=device).to(half_of(device))
    router = torch.randn(33, 300, device=device)
    total = launch_router(x, router).sum(0)
    error = relative_error(total, x.double() @ router.double().T)
    return "" if error < tolerance(torch.float32, depth=300) else f"off by {error:.1e}"


def check_aiter(device: torch.device) -> str:
    """The layer by AITER, with ids outside the experts among the pairs."""
    if reason := why_no_aiter(arch_of(device)):
        return f"not built: {reason}"
    problem = Problem.random(replace(SMALL[device.type], hidden=512, width=256), "bf16", 33, device)
    problem.ids[0][5:7] = -1
    run = AiterExperts.prepare(problem.w13, problem.w2, None, None)
    out = run(problem.x, problem.weights, problem.ids[0])
    error = relative_error(out, problem.expected(0))
    return "" if error < tolerance(out.dtype, num_roundings=4, depth=768) else f"off by {error:.1e}"


def check_combine(device: torch.device) -> str:
    """The weighted sum over each token's experts against float32."""
    shape = SMALL[device.type]
    problem = Problem.random(shape, "bf16", 19, device)
    alignment = problem.align(0, 16)
    rows = torch.randn(alignment.rows_R.numel(), shape.hidden, device=device).to(problem.x.dtype)
    out = Guarded.empty(tuple(problem.x.shape), rows.dtype, device)
    launch_combine(rows, problem.weights, alignment.inverse_N, out.tensor)
    error = relative_error(out.tensor, combine_ref(rows.float(), problem.weights, alignment.inverse_N))
    if not out.is_intact():
        return "wrote outside its output"
    return "" if error < tolerance(rows.dtype) else f"off by {error:.1e}"


def check_norm(device: torch.device, size: int) -> str:
    """RMS norm of x + residual against float32; the sum itself to the bit."""
    dtype = half_of(device)
    x, residual = (torch.randn(7, size, device=device).to(dtype) for _ in range(2))
    weight = torch.randn(size, device=device).to(dtype)
    out, total = (Guarded.empty((7, size), dtype, device) for _ in range(2))
    launch_rms_norm(x, residual, weight, EPS, out.tensor, total.tensor)
    error = relative_error(out.tensor, rms_norm_ref((x + residual).float(), weight.float(), EPS))
    if not out.is_intact() or not total.is_intact():
        return "wrote outside its outputs"
    if not torch.equal(total.tensor, x + residual):
        return "the sum differs"
    return "" if error < tolerance(dtype, depth=size) else f"off by {error:.1e}"


def check_quant(device: torch.device) -> str:
    """The last group of 128 columns is shorter."""
    dtype = float8_of(arch_of(device))
    x = torch.randn(5, 2 * 200, device=device).to(half_of(device))
    for group, columns in ((128, 2), (0, 1)):
        values = torch.full((5, 200), 7.0, device=device).to(dtype)
        scales = poison_(torch.empty(5, columns, device=device))
        launch_quant(x, values, scales, group, has_silu=True)
        values_ref, scales_ref = quantize_ref(x, dtype, group, True)
        # The interpreter loses the carry of a number that rounds up to a power of two.
        is_judged = (values_ref.view(torch.uint8) & 7 != 0) | (device.type == "cuda")
        share = float((values.float() != values_ref.float())[is_judged].float().mean())
        if not relative_error(scales, scales_ref) < 1e-6 or share > 1e-2:
            return f"group {group}: {share:.1e} of the values differ"
    return ""


def check_silu(device: torch.device) -> str:
    x = torch.randn(5, 2 * 300, device=device).to(half_of(device))
    out = Guarded.empty((5, 300), x.dtype, device)
    launch_silu_mul(x, out.tensor)
    error = relative_error(out.tensor, silu_mul_ref(x))
    if not out.is_intact():
        return "wrote outside its output"
    return "" if error < tolerance(x.dtype, num_roundings=2) else f"off by {error:.1e}"
