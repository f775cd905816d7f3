"""The sampler on a CUDA or ROCm device: the host's tokens, and no wait for the device but the final copy."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.sampling.sampler import Sampler

VOCAB = 517
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device"),
]
FILTERS: list[dict[str, Any]] = [{}, {"top_k": 7}, {"top_p": 0.8}, {"top_k": 9, "top_p": 0.9, "min_p": 0.01}]
EDITS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"logit_bias": ((3, 5.0), (516, -4.0))},
    {"min_tokens": 50, "stop_token_ids": (9,)},
    {"logprobs": 5},
]


def make_rows() -> list[SampleRow]:
    cases = itertools.product(FILTERS, EDITS, (0.0, 0.7, 1.5), range(4))
    return [
        SampleRow(
            params=SamplingParams(max_tokens=100, temperature=t, **f, **e),
            seed=i,
            prompt_ids=[1, 2, 3],
            output_ids=list(range(s * 5)),
            eos_token_ids=(0,),
        )
        for i, (f, e, t, s) in enumerate(cases)
    ]


def make_logits(num_rows: int) -> torch.Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(1)) * 3


@contextmanager
def error_on_sync() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_device_chooses_the_hosts_tokens() -> None:
    rows = make_rows()
    logits = make_logits(len(rows))
    on_host = Sampler(vocab_size=VOCAB, device="cpu").sample(logits, rows)
    on_device = Sampler(vocab_size=VOCAB, device="cuda").sample(logits.cuda(), rows)
    assert [s.token_id for s in on_device] == [s.token_id for s in on_host]
    for a, b in zip(on_device, on_host, strict=True):
        assert [t for t, _ in a.top] == [t for t, _ in b.top]
        assert a.logprob == (None if b.logprob is None else pytest.approx(b.logprob, abs=1e-4))


def test_only_the_final_copy_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows()
    logits = make_logits(len(rows)).cuda()
    copy, num_copies = torch.Tensor.tolist, []

    def counted(tensor: torch.Tensor) -> Any:
        num_copies.append(tensor.shape)
        torch.cuda.set_sync_debug_mode("default")
        return copy(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    with error_on_sync():
        Sampler(vocab_size=VOCAB, device="cuda").sample(logits, rows)
    assert len(num_copies) == 1
    with error_on_sync(), pytest.raises(RuntimeError, match="synchronizing"):
        logits[0, 0].item()  # planted


def test_a_nan_row_is_an_error_and_the_device_lives_on() -> None:
    rows = make_rows()
    logits = make_logits(len(rows)).cuda()
    logits[30] = math.nan
    sampler = Sampler(vocab_size=VOCAB, device="cuda")
    with pytest.raises(AssertionError, match="logits of row 30 have a maximum of nan"):
        sampler.sample(logits, rows)
    torch.cuda.synchronize()
