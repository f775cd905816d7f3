"""Sampling in one launch: checked against the reference that sorts, timed beside the sampler of the engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch
from proa_kernels.doctor_sample import wrong_draws
from proa_kernels.sample import SampleSettings
from proa_kernels.sample_triton import launch_sample
from proa_kernels.testing import Guarded, poison_
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.sampling.sampler import Sampler

from bench.kernels.decode_problem import BF16
from bench.kernels.measure import Ceilings, time_launches
from bench.kernels.rows import Row

VOCAB = 151_936
# temperature, min_p, top_k, top_p
REQUESTS = {
    "greedy": (0.0, 0.0, 0, 1.0),
    "temperature": (0.8, 0.0, 0, 1.0),
    "top-k 20, top-p 0.95": (0.6, 0.0, 20, 0.95),
    "top-p 0.95": (0.8, 0.0, 0, 0.95),
    "min-p 0.05": (0.8, 0.05, 0, 1.0),
}
Request = tuple[float, float, int, float]


def _settings(requests: list[Request], first_seed: int = 0) -> SampleSettings:
    temperature, min_p, top_k, top_p = zip(*requests, strict=True)
    seed = [first_seed + n for n in range(len(requests))]
    return SampleSettings.of(
        temperature=temperature, min_p=min_p, top_k=top_k, top_p=top_p, seed=seed, count=seed,
        device=torch.device("cuda"),
    )  # fmt: skip


def check() -> str:
    """Vocabularies, types and all requests; 100 repeats equal; a graph replayed on other logits and settings."""
    for vocab, dtype in ((1000, torch.float32), (VOCAB, BF16), (262_144, torch.float16)):
        requests = [*REQUESTS.values()] * 8
        logits = (torch.randn(len(requests), vocab, device="cuda") * 3).to(dtype)
        settings = _settings(requests)
        tokens = Guarded.empty((len(requests),), torch.int64, logits.device)
        peaks = Guarded.empty((len(requests),), torch.float32, logits.device)
        launch = partial(launch_sample, logits, settings, tokens.tensor, peaks.tensor)
        launch()
        first = tokens.tensor.clone()
        if wrong := wrong_draws(first, logits, settings):
            return f"vocabulary {vocab}: rows {wrong} differ from the reference"
        for _ in range(100):
            launch()
        if not torch.equal(tokens.tensor, first):
            return "a repeat differs"
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        logits.normal_(std=3)
        settings.seed.add_(1000)
        settings.top_k.copy_(settings.top_k.flip(0))
        poison_(tokens.tensor)
        graph.replay()
        if wrong := wrong_draws(tokens.tensor, logits, settings):
            return f"vocabulary {vocab}, replayed: rows {wrong} differ from the reference"
        if not tokens.is_intact() or not peaks.is_intact():
            return "wrote outside its outputs"
    return ""


def sample_rows(ceilings: Ceilings) -> Iterator[Row]:
    """One launch; the floor is reading the logits once. `detail`: a whole call of the engine's sampler."""
    for num_rows in (1, 32, 256):
        sets = [torch.randn(num_rows, VOCAB, device="cuda", dtype=BF16) * 3 for _ in range(4)]
        tokens = torch.empty(num_rows, device="cuda", dtype=torch.int64)
        peaks = torch.empty(num_rows, device="cuda")
        for name, request in REQUESTS.items():
            settings = _settings([request] * num_rows)
            timing = time_launches([partial(launch_sample, logits, settings, tokens, peaks) for logits in sets])
            yield Row(
                name=f"sample {name} {num_rows}x{VOCAB}", timing=timing,
                floor_us=sets[0].nbytes / ceilings.copy_bytes * 1e6,
                detail=f"engine's sampler, whole call {_sampler_us(sets, request):.0f}",
            )  # fmt: skip


def _sampler_us(sets: list[torch.Tensor], request: Request) -> float:
    """Median wall time of calls that wait for their tokens: uploads and the copy back belong to it."""
    temperature, min_p, top_k, top_p = request
    params = SamplingParams(max_tokens=100, temperature=temperature, min_p=min_p, top_k=top_k, top_p=top_p)
    rows = [
        SampleRow(params=params, seed=n, prompt_ids=[1], output_ids=[], eos_token_ids=(2,))
        for n in range(sets[0].shape[0])
    ]
    sampler = Sampler(vocab_size=VOCAB, device="cuda")
    seconds = []
    for n in range(21):
        started = time.perf_counter()
        sampler.sample(sets[n % len(sets)], rows)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e6
