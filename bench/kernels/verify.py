"""Correctness of every kernel and candidate on random data, which also fills Triton's disk cache for the timings.

    python -m bench.kernels.verify PART NUM_PARTS [START ...]    prints one JSON object: name -> "" or what is wrong

Checks whose names start with one of START, if any are given.

Checked: results against references in higher precision, poison and canaries; for align (20 repeats) and the layer (100)
repeats equal to the bit, graph replays after the inputs changed, and two streams at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from proa_kernels.gate import GateSpec, gate_ref
from proa_kernels.moe_align import align_ref, empty_alignment
from proa_kernels.moe_gemm import combine_ref
from proa_kernels.moe_gemm_launch import launch_combine
from proa_kernels.testing import Guarded, alignment_faults, poison_, relative_error, tolerance
from triton.errors import TritonError
from triton.runtime.errors import OutOfResources

from bench.kernels.arms import AlignLaunch, GateLaunch, align_arms, gate_arms
from bench.kernels.candidates import Candidate, all_candidates
from bench.kernels.moe_problem import MoeShape, Problem
from bench.kernels.verify_layer import layer_checks

SMALL = MoeShape(name="small", num_experts=9, per_token=3, hidden=512, width=256)
GATES = {
    "softmax bf16": (GateSpec(top_k=8), 256, torch.bfloat16, False),
    "softmax fp32 E=128": (GateSpec(top_k=8), 128, torch.float32, False),
    "softmax fp32 8 groups of 20": (
        GateSpec(top_k=6, num_groups=8, top_groups=3, renormalize=False, scale=16.0),
        160,
        torch.float32,
        False,
    ),
    "sigmoid groups": (
        GateSpec(top_k=8, score="sigmoid", num_groups=8, top_groups=4, group_score="top2", scale=2.5),
        256,
        torch.float32,
        True,
    ),
}
BLOCK = 64
Check = Callable[[], str]


def checks() -> Iterator[tuple[str, Check]]:
    yield from routing_checks()
    yield "combine", _combine
    yield from layer_checks()
    for candidate in all_candidates():
        name = f"gemm{candidate.product} {candidate.kind} {candidate.label}"
        yield name, partial(_gemm, candidate)


def routing_checks() -> Iterator[tuple[str, Check]]:
    """Align and gate by every arm of this machine."""
    for name, launch in align_arms().items():
        for tokens in (1, 8, 16, 128, 200, 512, 1024, 4096, 16384, 100_000):
            yield f"align {name} {tokens}", partial(_align, launch, tokens)
        yield f"align {name} graph and streams", partial(_align_graph, launch)
    for name, (spec, num_experts, *_) in GATES.items():
        for arm, choose in gate_arms(spec, num_experts).items():
            yield f"gate {arm} {name}", partial(_gate, choose, name)


def _ids(tokens: int, num_experts: int = 256) -> torch.Tensor:
    return torch.randint(-1, num_experts + 1, (tokens, 8), device="cuda", dtype=torch.int32)


def _align(launch: AlignLaunch, tokens: int) -> str:
    expert_map = torch.randperm(256, device="cuda").to(torch.int32) - 64
    few = torch.tensor([max(tokens - 3, 0)], device="cuda", dtype=torch.int32)
    for num_experts, mapping, count in ((256, None, None), (192, expert_map, None), (256, None, few), (65, None, None)):
        ids = _ids(tokens)
        guards = [
            Guarded.empty((t.numel(),), torch.int32, ids.device)
            for t in empty_alignment(ids.numel(), num_experts, BLOCK, ids.device).tensors()
        ]
        outputs = tuple(guard.tensor for guard in guards)
        expected = align_ref(ids, num_experts, BLOCK, mapping, count)
        for _ in range(20):
            for tensor in outputs:
                poison_(tensor)
            launch(ids, BLOCK, mapping, count, outputs)
            if faults := alignment_faults(outputs, expected, BLOCK):
                return f"E={num_experts} map={mapping is not None} count={count is not None}: {', '.join(faults)}"
        if not all(guard.is_intact() for guard in guards):
            return "wrote outside its outputs"
    return ""


def _align_graph(launch: AlignLaunch) -> str:
    """One capture replayed on new ids, and a second problem on another stream at the same time."""
    for tokens in (16, 4096):
        ids, other = _ids(tokens), _ids(tokens)
        first, second = (empty_alignment(ids.numel(), 256, BLOCK, ids.device).tensors() for _ in range(2))
        launch(ids, BLOCK, None, None, first)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch(ids, BLOCK, None, None, first)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        for _ in range(10):
            ids.copy_(_ids(tokens))
            for tensor in first + second:
                poison_(tensor)
            torch.cuda.synchronize()
            graph.replay()
            with torch.cuda.stream(side):
                launch(other, BLOCK, None, None, second)
            torch.cuda.synchronize()
            faults = alignment_faults(first, align_ref(ids, 256, BLOCK), BLOCK)
            if faults := faults + alignment_faults(second, align_ref(other, 256, BLOCK), BLOCK):
                return f"{tokens} tokens: {', '.join(faults)}"
    return ""


def _gate(launch: GateLaunch, name: str) -> str:
    spec, num_experts, dtype, has_bias = GATES[name]
    is_exact = not has_bias and spec.num_groups == 1
    for tokens in (1, 7, 4096, 16384):
        logits = torch.randn(tokens, num_experts, device="cuda").to(dtype)
        bias = torch.randn(num_experts, device="cuda") / 8 if has_bias else None
        weights = poison_(torch.empty(tokens, spec.top_k, device="cuda"))
        ids = poison_(torch.empty(tokens, spec.top_k, device="cuda", dtype=torch.int32))
        launch(logits, bias, weights, ids, spec)
        weights_ref, ids_ref = gate_ref(logits, spec, bias)
        # Device exponentials differ in the last bit, so scores that are all but equal may swap.
        share = float((ids != ids_ref).float().mean())
        if share > (0.0 if is_exact else 1e-3):
            return f"{tokens} tokens: {share:.1e} of the ids differ"
        is_same = (ids == ids_ref).all(1)
        if not (error := relative_error(weights[is_same], weights_ref[is_same])) < 1e-5:
            return f"{tokens} tokens: weights off by {error:.1e}"
    return ""


def _combine() -> str:
    problem = Problem.random(SMALL, "bf16", 100, 1)
    alignment = problem.align(0, 16)
    rows = torch.randn(alignment.rows_R.numel(), 512, device="cuda", dtype=torch.bfloat16)
    out = poison_(torch.empty(100, 512, device="cuda", dtype=torch.bfloat16))
    launch_combine(rows, problem.weights, alignment.inverse_N, out)
    error = relative_error(out, combine_ref(rows.float(), problem.weights, alignment.inverse_N))
    return "" if error < tolerance(torch.bfloat16) else f"off by {error:.1e}"


def _gemm(candidate: Candidate) -> str:
    torch.manual_seed(0)
    rows = candidate.blocks.rows
    problem = Problem.random(SMALL, candidate.kind, 150, 1)
    alignment = problem.align(0, rows)
    total = int(alignment.totals_2[0])
    width = SMALL.width if candidate.product == 1 else SMALL.hidden
    out = Guarded.empty((alignment.rows_R.numel(), width), torch.bfloat16, problem.x.device)
    try:
        if candidate.product == 1:
            problem.run1(alignment, out.tensor, candidate)
            expected = problem.expected1(alignment, rows)
        else:
            h, h_scale = problem.hidden_like(alignment.rows_R.numel())
            problem.run2(alignment, h, h_scale, out.tensor, candidate.blocks, candidate.tma)
            expected = problem.expected2(alignment, rows, h, h_scale)
    except OutOfResources as refusal:
        return f"does not fit: {refusal}"
    error = relative_error(out.tensor[:total], expected[:total])
    if not out.is_intact() or not bool(out.tensor[total:].isnan().all()):
        return "wrote outside its rows"
    return "" if error < tolerance(torch.bfloat16, depth=512) else f"off by {error:.1e}"


def main() -> None:
    """Run the checks of this part, and print one JSON object of verdicts for the process that started all parts."""
    part, num_parts, starts = int(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:])
    torch.backends.cuda.matmul.allow_tf32 = False
    results = {}
    chosen = [(name, check) for name, check in checks() if not starts or name.startswith(starts)]
    for idx, (name, check) in enumerate(chosen):
        if idx % num_parts == part:
            try:
                results[name] = check()
            except (RuntimeError, TritonError) as error:  # a kernel that the compiler refuses must not hide the others
                results[name] = str(error).splitlines()[0]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
