"""The seam between the engine loop and whatever computes: native torch, vLLM, or a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from proa_workers.core.plan import StepOutput, StepPlan
from proa_workers.errors import SettingsError
from proa_workers.kv.memory import KvMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a gateway, a peer and the scheduler need to know; lengths in tokens."""

    model_path: str
    model_type: str
    architecture: str
    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    pad_token_id: int | None
    dtype: str
    device: str


def check_pool(num_blocks: int, block_tokens: int, max_model_len: int) -> None:
    """SettingsError if a sequence of the longest length does not fit: alone in the pool, it would wait for ever."""
    needed = -(-max_model_len // block_tokens)
    if num_blocks < needed:
        raise SettingsError(
            f"the KV pool holds {num_blocks} blocks of {block_tokens} tokens, but max_model_len {max_model_len} needs"
            f" {needed}; raise --num-kv-blocks or --kv-cache-memory, or lower --max-model-len"
        )


class Flight(Protocol):
    """A step that was launched."""

    @property
    def plan(self) -> StepPlan: ...

    def read(self) -> StepOutput:
        """Wait for its tokens."""


class Engine(Protocol):
    """Computes steps over a paged KV pool. Called from one thread only."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def kv(self) -> KvMemory: ...

    def step(self, plan: StepPlan) -> StepOutput:
        """Run one forward over all slices, write their KV rows, sample where a slice has a row."""

    def close(self) -> None: ...


@runtime_checkable
class LookAheadEngine(Engine, Protocol):
    """An engine that can start a step from tokens that are still on its device."""

    @property
    def looks_ahead(self) -> bool:
        """Whether it gains from that here."""

    def launch(self, plan: StepPlan, before: Flight | None) -> Flight:
        """Queue a step behind `before`, of whose plan `unread` tokens of `plan` speak (None: there are none)."""
