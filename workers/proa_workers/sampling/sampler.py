"""Batched sampling: logits of R sequences in, one token each out, with one copy from the device.

`launch` queues all of it and leaves the tokens on the device, where the next step can start from them; `Drawn.read`
waits for the copy.

Sizes: R rows, S rows that draw at random, V vocabulary. The slow, obvious twin is `reference.py`.
Order and meaning as in vLLM: edits (`adjust.py`), temperature, min-p, top-k, top-p over what is left, then the draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proa_workers.core.plan import Sampled, SampleRow
from proa_workers.sampling.adjust import Penalties, adjust_logits
from proa_workers.sampling.draw import uniforms
from proa_workers.sampling.history import TokenHistory
from proa_workers.sampling.penalties import HostPenalties
from proa_workers.sampling.select import cutoff_key, invert_cdf
from proa_workers.sampling.upload import upload

MIN_TEMPERATURE = 1e-5  # below it a request is greedy, as in vLLM: distances would overflow float32
HOST_BLOCK_LOGITS, DEVICE_BLOCK_LOGITS = 2**19, 2**24  # drawn at once
MAX_NEAR = 256  # top-k up to here by torch.topk, about ten times faster than counting digits at a vocabulary of 150k


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """Tokens on the device, int64 [R, 1], and the table from which the host makes `Sampled` values, on its way."""

    token_R1: Tensor
    rows: tuple[SampleRow, ...]
    num_top: int
    table: Tensor
    is_copied: torch.cuda.Event | None

    def read(self) -> list[Sampled]:
        """Wait for the tokens. AssertionError names the row whose logits are NaN or leave no token to choose."""
        if self.is_copied is not None:
            self.is_copied.synchronize()
        table = zip(self.table.tolist(), self.rows, strict=True)
        return [_to_sampled(r, values, row, self.num_top) for r, (values, row) in enumerate(table)]


class Sampler:
    """Chooses tokens for the rows of one step; keeps nothing between steps that could change a token."""

    def __init__(self, *, vocab_size: int, device: str, keeps_history: bool | None = None) -> None:
        """`keeps_history`: tokens of rows with penalties stay on the device; None = where that is not the host."""
        self._vocab_size = vocab_size
        self._device = torch.device(device)
        keeps = self._device.type != "cpu" if keeps_history is None else keeps_history
        self._penalties: Penalties = TokenHistory(vocab_size, self._device) if keeps else HostPenalties()

    def sample(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        """`launch` and `read` in one."""
        return self.launch(logits_RV, rows).read() if rows else []

    @torch.inference_mode()
    def launch(self, logits_RV: Tensor, rows: Sequence[SampleRow], unread: Sequence[int] = ()) -> Drawn:
        """One token per row of `logits_RV` (any float dtype, left unchanged).

        Logprobs are the log-softmax of these logits, before any edit. `unread` is how many tokens of each row were
        drawn and not yet appended to its `output_ids` (none by default).
        """
        counts = list(unread) or [0] * len(rows)
        assert logits_RV.shape == (len(rows), self._vocab_size), f"{tuple(logits_RV.shape)} logits, {len(rows)} rows"
        edited_RV = adjust_logits(logits_RV, rows, self._penalties, counts)
        peak_R1, token_R1 = self._choose(edited_RV, rows, counts)
        self._penalties.count(rows, token_R1)
        columns = [token_R1, logits_RV.amax(1, keepdim=True) if edited_RV is not logits_RV else peak_R1, peak_R1]
        num_top = max((-1 if row.params.logprobs is None else row.params.logprobs) for row in rows)
        if num_top >= 0:
            columns += _logprob_columns(logits_RV.float(), token_R1, num_top)
        table = torch.cat([c.double() for c in columns], dim=1)
        host, is_copied = _start_copy(table)
        return Drawn(token_R1=token_R1, rows=tuple(rows), num_top=num_top, table=host, is_copied=is_copied)

    def _choose(self, edited_RV: Tensor, rows: Sequence[SampleRow], unread: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Maximum logit and token of each row: the most likely one, or a drawn one where a row has a temperature."""
        random = [r for r, row in enumerate(rows) if row.params.temperature >= MIN_TEMPERATURE]
        if len(random) == len(rows):
            peak_R1 = edited_RV.amax(1, keepdim=True)
            return peak_R1, _draw_blocks(edited_RV, peak_R1, rows, unread)
        peak_R1, greedy_R1 = edited_RV.max(1, keepdim=True)
        if not random:
            return peak_R1, greedy_R1
        row_S = upload(np.array(random, dtype=np.int64), self._device)
        chosen = ([rows[r] for r in random], [unread[r] for r in random])
        drawn_S1 = _draw_blocks(edited_RV[row_S], peak_R1[row_S], *chosen)
        return peak_R1, greedy_R1.index_copy(0, row_S, drawn_S1)


def _start_copy(table: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The table on the host, and the event that ends its copy; the table itself where it is there already."""
    if table.device.type == "cpu":
        return table, None
    host = torch.empty(table.shape, dtype=table.dtype, pin_memory=True)
    host.copy_(table, non_blocking=True)
    is_copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    is_copied.record()
    return host, is_copied


def _draw_blocks(edited_SV: Tensor, peak_S1: Tensor, rows: Sequence[SampleRow], unread: Sequence[int]) -> Tensor:
    """`_draw_rows` over blocks of rows: bounded scratch memory (28 bytes a logit), and on a host it stays in cache."""
    limit = HOST_BLOCK_LOGITS if edited_SV.device.type == "cpu" else DEVICE_BLOCK_LOGITS
    size = max(limit // edited_SV.shape[1], 1)
    starts = range(0, len(rows), size)
    cuts = [slice(i, i + size) for i in starts]
    blocks = [_draw_rows(edited_SV[cut].float(), peak_S1[cut].float(), rows[cut], unread[cut]) for cut in cuts]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _draw_rows(edited_SV: Tensor, peak_S1: Tensor, rows: Sequence[SampleRow], unread: Sequence[int]) -> Tensor:
    params = [row.params for row in rows]
    settings = np.empty((5, len(rows), 1))
    settings[0, :, 0] = [p.temperature for p in params]
    settings[1, :, 0] = [-math.log(p.min_p) if p.min_p > 0 else math.inf for p in params]
    settings[2, :, 0] = [p.top_k or math.inf for p in params]
    settings[3, :, 0] = [p.top_p if p.top_p < 1 else math.inf for p in params]
    counts = [len(row.output_ids) + n for row, n in zip(rows, unread, strict=True)]
    settings[4, :, 0] = uniforms([row.seed for row in rows], counts)
    temperature_S1, reach_S1, top_k_S1, top_p_S1, uniform_S1 = upload(settings, edited_SV.device)

    y_SV = (peak_S1 - edited_SV).div_(temperature_S1.float())
    weight_SV = torch.exp(-y_SV)
    if any(p.min_p > 0 for p in params):
        weight_SV.masked_fill_(y_SV > reach_S1, 0)
    near_SK, near_weight_SK = y_SV, weight_SV
    if any(p.top_k for p in params):
        near_SK, near_weight_SK = _keep_top_k(y_SV, weight_SV, top_k_S1, [p.top_k for p in params])
    if any(p.top_p < 1 for p in params):
        mass_S1 = weight_SV.sum(1, keepdim=True, dtype=torch.float64)
        cutoff_S1 = cutoff_key(near_SK.view(torch.int32), near_weight_SK, top_p_S1 * mass_S1)
        weight_SV.masked_fill_(y_SV.view(torch.int32) > cutoff_S1, 0)
    return invert_cdf(weight_SV, uniform_S1)


def _keep_top_k(y_SV: Tensor, weight_SV: Tensor, top_k_S1: Tensor, top_k: list[int]) -> tuple[Tensor, Tensor]:
    """Zero the weights beyond each row's top-k; returns distances and weights that are enough to find a top-p cutoff.

    When every row has a small k, the k nearest tokens are: others can only tie with the last of them, which changes
    the mass of nothing before it.
    """
    num_near = max(top_k)
    if min(top_k) == 0 or num_near > min(MAX_NEAR, y_SV.shape[1]):
        cutoff_S1 = cutoff_key(y_SV.view(torch.int32), torch.ones_like(weight_SV), top_k_S1)
        weight_SV.masked_fill_(y_SV.view(torch.int32) > cutoff_S1, 0)
        return y_SV, weight_SV
    near_SK, token_SK = y_SV.topk(num_near, dim=1, largest=False)
    weight_SV.masked_fill_(y_SV > near_SK.gather(1, top_k_S1.long() - 1), 0)
    return near_SK, weight_SV.gather(1, token_SK)


def _logprob_columns(raw_RV: Tensor, token_R1: Tensor, num_top: int) -> list[Tensor]:
    norm_R1 = raw_RV.logsumexp(1, keepdim=True)
    top_RK, top_ids_RK = raw_RV.topk(num_top, dim=1)
    return [raw_RV.gather(1, token_R1) - norm_R1, top_RK - norm_R1, top_ids_RK]


def _to_sampled(r: int, values: list[float], row: SampleRow, num_top: int) -> Sampled:
    token, raw_peak, peak, *rest = values
    assert math.isfinite(raw_peak), f"logits of row {r} have a maximum of {raw_peak} at output {len(row.output_ids)}"
    assert math.isfinite(peak), f"row {r} has no token left to choose at output {len(row.output_ids)}: maximum {peak}"
    wanted = row.params.logprobs
    if wanted is None:
        return Sampled(token_id=int(token))
    top = zip(rest[1 + num_top : 1 + num_top + wanted], rest[1 : 1 + wanted], strict=True)
    return Sampled(token_id=int(token), logprob=rest[0], top=tuple((int(t), p) for t, p in top))
