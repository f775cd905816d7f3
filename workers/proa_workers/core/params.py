"""What a request asks of the sampler: one frozen value, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proa_workers.errors import InvalidRequest

ConstraintKind = Literal["json_schema", "json_object", "regex", "grammar", "choice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """Structured output: `text` is a JSON schema, a regex, a Lark/EBNF grammar, or a JSON list of choices."""

    kind: ConstraintKind
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling settings with OpenAI's and vLLM's meanings.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; `seed` None draws one per request; `logprobs` None
    reports none, k reports the chosen token and the k most likely ones (log-softmax of the raw logits).
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    constraint: Constraint | None = None

    @property
    def has_penalty(self) -> bool:
        return bool(self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1.0)

    def __post_init__(self) -> None:
        for is_good, message in self._checks():
            if not is_good:
                raise InvalidRequest(message)

    def _checks(self) -> tuple[tuple[bool, str], ...]:
        return (
            (self.max_tokens >= 1, f"max_tokens must be at least 1, got {self.max_tokens}"),
            (0 <= self.min_tokens <= self.max_tokens, f"min_tokens must be in 0..max_tokens, got {self.min_tokens}"),
            (0.0 <= self.temperature <= 100.0, f"temperature must be in 0..100, got {self.temperature}"),
            (0.0 < self.top_p <= 1.0, f"top_p must be in (0, 1], got {self.top_p}"),
            (self.top_k >= 0, f"top_k must be 0 (off) or more, got {self.top_k}"),
            (0.0 <= self.min_p <= 1.0, f"min_p must be in 0..1, got {self.min_p}"),
            (
                -2.0 <= self.frequency_penalty <= 2.0,
                f"frequency_penalty must be in -2..2, got {self.frequency_penalty}",
            ),
            (-2.0 <= self.presence_penalty <= 2.0, f"presence_penalty must be in -2..2, got {self.presence_penalty}"),
            (
                0.0 < self.repetition_penalty <= 10.0,
                f"repetition_penalty must be in (0, 10], got {self.repetition_penalty}",
            ),
            (1 <= self.n <= 128, f"n must be in 1..128, got {self.n}"),
            (self.logprobs is None or 0 <= self.logprobs <= 20, f"logprobs must be in 0..20, got {self.logprobs}"),
            (all(self.stop), "stop strings must not be empty"),
        )
