"""What to ask: seeded length distributions, one dataclass per workload. Pure.

A workload yields `RequestPlan`s. A plan says how many tokens each span of the prompt has and which spans are
shared: spans with equal keys carry equal text, so a prefix cache sees the sharing that the workload describes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SHARED = 0  # first item of a span key: text that several requests share
UNIQUE = 1  # first item of a span key: text of one request only


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpan:
    """`num_tokens` tokens of text that is fully determined by `key` (and the seed of the run)."""

    key: tuple[int, int]
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlan:
    """One request: prompt spans, output length in tokens, and (traces only) its due time in seconds."""

    request_idx: int
    spans: tuple[PromptSpan, ...]
    output_tokens: int
    due_seconds: float | None = None

    @property
    def input_tokens(self) -> int:
        return sum(span.num_tokens for span in self.spans)


class Workload(Protocol):
    """Yields plans, the same ones for the same seed."""

    @property
    def name(self) -> str: ...

    def plans(self, seed: int) -> Iterator[RequestPlan]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformWorkload:
    """Lengths uniform on [(1 - spread) * n, n], input and output drawn apart (InferenceMAX uses spread 0.2)."""

    name: str
    input_tokens: int
    output_tokens: int
    spread: float = 0.2
    scale: float = 1.0

    def plans(self, seed: int) -> Iterator[RequestPlan]:
        for request_idx in itertools.count():
            rng = np.random.default_rng([seed, request_idx])
            num_in, num_out = (self._draw(rng, n) for n in (self.input_tokens, self.output_tokens))
            yield _unique_plan(request_idx, num_in, num_out)

    def _draw(self, rng: np.random.Generator, num_tokens: int) -> int:
        high = scaled(num_tokens, self.scale)
        low = scaled(num_tokens, self.scale * (1 - self.spread))
        return int(rng.integers(low, high, endpoint=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormalLengths:
    """Token counts with the given median and log-space sigma, clipped to [low, high]."""

    median: float
    sigma: float
    low: int
    high: int

    def draw(self, rng: np.random.Generator, scale: float) -> int:
        value = self.median * float(np.exp(self.sigma * rng.standard_normal()))
        return scaled(min(max(value, self.low), self.high), scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormalWorkload:
    """Log-normal lengths behind one system prompt of `shared_tokens` tokens that all requests share."""

    name: str
    input_lengths: LogNormalLengths
    output_lengths: LogNormalLengths
    shared_tokens: int = 0
    scale: float = 1.0

    def plans(self, seed: int) -> Iterator[RequestPlan]:
        shared: tuple[PromptSpan, ...] = ()
        if self.shared_tokens:
            shared = (PromptSpan(key=(SHARED, 0), num_tokens=scaled(self.shared_tokens, self.scale)),)
        for request_idx in itertools.count():
            rng = np.random.default_rng([seed, request_idx])
            num_in, num_out = (d.draw(rng, self.scale) for d in (self.input_lengths, self.output_lengths))
            yield _unique_plan(request_idx, num_in, num_out, shared)


def scaled(num_tokens: float, scale: float) -> int:
    """`num_tokens * scale`, at least one token."""
    return max(1, round(num_tokens * scale))


def _unique_plan(request_idx: int, num_in: int, num_out: int, shared: tuple[PromptSpan, ...] = ()) -> RequestPlan:
    own = PromptSpan(key=(UNIQUE, request_idx), num_tokens=num_in)
    return RequestPlan(request_idx=request_idx, spans=(*shared, own), output_tokens=num_out)


def synthetic(name: str, scale: float) -> Workload:
    """The workload called `name` (`SYNTHETIC` lists them) with every length multiplied by `scale`.

    Raises KeyError for an unknown name.
    """
    return SYNTHETIC[name](scale)


def _eight_k_one_k(scale: float) -> Workload:
    return UniformWorkload(name="8k1k", input_tokens=8192, output_tokens=1024, scale=scale)


def _one_k_one_k(scale: float) -> Workload:
    return UniformWorkload(name="1k1k", input_tokens=1024, output_tokens=1024, scale=scale)


def _chat(scale: float) -> Workload:
    question = LogNormalLengths(median=180, sigma=1.0, low=4, high=4096)
    answer = LogNormalLengths(median=200, sigma=0.7, low=16, high=1024)
    return LogNormalWorkload(name="chat", input_lengths=question, output_lengths=answer, shared_tokens=256, scale=scale)


def _summarize(scale: float) -> Workload:
    document = LogNormalLengths(median=6000, sigma=0.4, low=2048, high=32768)
    summary = LogNormalLengths(median=160, sigma=0.4, low=32, high=512)
    return LogNormalWorkload(name="summarize", input_lengths=document, output_lengths=summary, scale=scale)


def _reason(scale: float) -> Workload:
    problem = LogNormalLengths(median=300, sigma=0.6, low=32, high=4096)
    thoughts = LogNormalLengths(median=3000, sigma=0.5, low=512, high=16384)
    return LogNormalWorkload(name="reason", input_lengths=problem, output_lengths=thoughts, scale=scale)


SYNTHETIC = {
    "8k1k": _eight_k_one_k,
    "1k1k": _one_k_one_k,
    "chat": _chat,
    "summarize": _summarize,
    "reason": _reason,
}
