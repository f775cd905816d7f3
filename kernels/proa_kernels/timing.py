"""Time of device work by CUDA-graph replay, and the ceilings of this card that floors are computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from proa_kernels.arch import Arch, arch_of

Launch = Callable[[], object]
MIN_LAUNCHES, MAX_REPLAYS = 20, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Microseconds of one launch: medians of two separate rounds of replays; their difference is the noise."""

    us: float
    again_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Measured here: bytes a second of a copy (read plus written), and FLOP a second of large products."""

    copy_bytes: float
    bf16_flops: float
    fp8_flops: float
    empty_us: float


def float8_of(arch: Arch) -> torch.dtype:
    """e4m3 as the GPU multiplies it: gfx942 has the form without negative zero alone."""
    return torch.float8_e4m3fnuz if arch.name == "gfx942" else torch.float8_e4m3fn


def time_launches(launches: Sequence[Launch], seconds: float = 0.05) -> Timing:
    """Replay a graph of all `launches` (the same work on rotating inputs), repeated until it is long enough."""
    for launch in launches:
        launch()
    torch.cuda.synchronize()
    single_us = _replay_us(_capture(launches, 1), 3) / len(launches)
    repeats = max(1, min(-(-MIN_LAUNCHES // len(launches)), int(20_000 / max(single_us * len(launches), 1.0))))
    graph = _capture(launches, repeats)
    count = repeats * len(launches)
    replays = max(5, min(MAX_REPLAYS, int(seconds * 1e6 / max(single_us * count, 1.0))))
    first, second = (_replay_us(graph, replays) / count for _ in range(2))
    return Timing(us=first, again_us=second)


def _capture(launches: Sequence[Launch], repeats: int) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            for launch in launches:
                launch()
    return graph


def _replay_us(graph: torch.cuda.CUDAGraph, replays: int) -> float:
    graph.replay()
    times = []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return float(median(times))


def measure_ceilings() -> Ceilings:
    """A large copy, products of 8192 x 8192 x 8192, and a launch that does next to nothing."""
    copy_bytes = _copy_bytes()
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = time_launches([lambda: a @ b], 0.2)
    fp8 = float8_of(arch_of(a.device))
    a8, b8 = a.to(fp8), b.to(fp8).T.contiguous().T
    one = torch.ones((), device="cuda")
    scaled = time_launches(
        [lambda: torch._scaled_mm(a8, b8, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)], 0.2
    )
    tiny = torch.zeros(1, device="cuda")
    return Ceilings(
        copy_bytes=copy_bytes,
        bf16_flops=2 * 8192**3 / product.us * 1e6,
        fp8_flops=2 * 8192**3 / scaled.us * 1e6,
        empty_us=time_launches([tiny.zero_]).us,
    )


def _copy_bytes() -> float:
    """By a kernel: as a graph node, copy_ becomes a transfer, which was a fifth slower on an H100."""
    source = torch.empty(1 << 30, dtype=torch.int32, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / time_launches([lambda: torch.bitwise_not(source, out=target)], 0.2).us * 1e6
