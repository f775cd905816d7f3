"""Cost model of one worker: how long a step, a hand-off and a start take. Pure: also the simulator's model.

A step computes prefill tokens and decode sequences together. Mixture-of-experts weights are read as far as the step's
tokens touch them: of E experts with k per token, n tokens touch E * (1 - (1 - k/E)**n) in the mean (uniform routing).
`expert_share` 0 makes the model linear (a dense model): base + per-token terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from proa_workers.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Seconds and bytes. The defaults are a simulation, not a claim for any hardware: see `provenance`.

    They were fitted to decode steps of 4.10, 8.89, 15.0, 18.7, 21.9 ms at batch 1, 8, 32, 128, 256 (context 256) and to
    121.8 ms for 8192 prefill tokens of prompts of 2048; the model gives 4.1, 8.4, 14.8, 18.7, 22.0 and 121.7 ms.
    """

    step_base_seconds: float = 3.3e-3
    step_experts_seconds: float = 12.2e-3  # reading all routed experts' weights once
    expert_share: float = 8 / 128  # experts per token over experts
    prefill_token_seconds: float = 11.1e-6
    prefill_pair_seconds: float = 1.82e-9  # one new token attending to one earlier token
    decode_seq_seconds: float = 20e-6
    decode_context_token_seconds: float = 21e-9  # reading one token's KV rows
    kv_bytes_per_token: int = 98_304
    kv_cache_tokens: int = 262_144
    transfer_latency_seconds: float = 1e-3
    transfer_bytes_per_second: float = 45e9
    startup_seconds: float = 0.0
    provenance: str = (
        "simulated: fitted to vLLM 0.26.0 with a Qwen3-30B-A3B-shaped model (bf16, random weights) on one H200;"
        " transfer speed of a 400 Gbit/s network card as published for mori-io"
    )

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "provenance" and not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"cost model: {field.name} must be 0 or more, got {value}")
        if self.expert_share > 1:
            raise SettingsError(f"cost model: expert_share must be in 0..1, got {self.expert_share}")
        if not (self.transfer_bytes_per_second and self.kv_cache_tokens):
            raise SettingsError("cost model: transfer_bytes_per_second and kv_cache_tokens must be more than 0")
        if not self.provenance.startswith(("measured", "simulated")):
            raise SettingsError("cost model: provenance must start with 'measured' or 'simulated'")

    def step_seconds(
        self, *, prefill_tokens: int = 0, prefill_pairs: int = 0, decode_seqs: int = 0, decode_context: int = 0
    ) -> float:
        """Duration of one step; 0 tokens take no time.

        `prefill_pairs` is the sum of `attended_pairs` over the prefill pieces, `decode_context` the sum of context
        lengths in tokens over the decoding sequences.
        """
        num_tokens = prefill_tokens + decode_seqs
        if num_tokens == 0:
            return 0.0
        touched = 1 - (1 - self.expert_share) ** num_tokens if self.expert_share else 0.0
        return (
            self.step_base_seconds
            + self.step_experts_seconds * touched
            + self.prefill_token_seconds * prefill_tokens
            + self.prefill_pair_seconds * prefill_pairs
            + self.decode_seq_seconds * decode_seqs
            + self.decode_context_token_seconds * decode_context
        )

    def transfer_seconds(self, num_tokens: int) -> float:
        """Time to move the KV rows of `num_tokens` tokens from a prefill to a decode worker, alone on the wire."""
        return self.transfer_latency_seconds + num_tokens * self.kv_bytes_per_token / self.transfer_bytes_per_second


def attended_pairs(start: int, num_tokens: int) -> int:
    """(query, key) pairs of causal attention when tokens start .. start + num_tokens - 1 are computed."""
    return num_tokens * start + num_tokens * (num_tokens + 1) // 2


def cost_model_from(values: Mapping[str, Any], where: str) -> CostModel:
    """Cost model from the mapping of a file named `where`; SettingsError, in one line, for a bad key or value."""
    types = {field.name: str if field.name == "provenance" else float for field in fields(CostModel)}
    unknown = sorted(str(key) for key in values if key not in types)
    if unknown:
        raise SettingsError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(types)}")
    if values and "provenance" not in values:
        raise SettingsError(f"{where}: provenance is missing; say where the numbers come from ('measured: ...')")
    for key, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(value, str) if types[key] is str else is_number):
            kind = "text" if types[key] is str else "a number"
            raise SettingsError(f"{where}: {key} must be {kind}, got {value!r} (YAML wants 1.0e-3, not 1e-3)")
    try:
        return CostModel(**values)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
