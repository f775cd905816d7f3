"""A simulated worker's behaviour from a YAML file.

The file holds the cost model's keys and the length of its answers, or it is a PerformanceProfile as `proa profile`
writes it: then the simulated worker is as fast as the measured one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from proa_workers.errors import SettingsError
from proa_workers.sim.cost import CostModel, cost_model_from

PROFILE_KEYS = {
    ("step", "baseSeconds"): "step_base_seconds",
    ("step", "expertsSeconds"): "step_experts_seconds",
    ("step", "expertShare"): "expert_share",
    ("prefill", "tokenSeconds"): "prefill_token_seconds",
    ("prefill", "pairSeconds"): "prefill_pair_seconds",
    ("decode", "sequenceSeconds"): "decode_seq_seconds",
    ("decode", "contextTokenSeconds"): "decode_context_token_seconds",
    ("transfer", "latencySeconds"): "transfer_latency_seconds",
    ("transfer", "bytesPerSecond"): "transfer_bytes_per_second",
}
"""Field of a PerformanceProfile's spec -> field of the cost model."""
SIZE_KEYS = {"kvBytesPerToken": "kv_bytes_per_token", "kvCacheTokens": "kv_cache_tokens"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimProfile:
    """`mean_output_tokens` 0: outputs end at max_tokens only; m: each token after min_tokens is the last with 1/m."""

    cost: CostModel = field(default_factory=CostModel)
    mean_output_tokens: float = 0.0


def read_profile(path: Path) -> SimProfile:
    """Profile in `path`; SettingsError, in one line, when it is missing or wrong."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"sim profile {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"sim profile {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"sim profile {path} must be a mapping of keys to numbers")
    if values.get("kind") == "PerformanceProfile":
        values = _from_performance_profile(values, path)
    mean = values.pop("mean_output_tokens", 0.0)
    if isinstance(mean, bool) or not isinstance(mean, int | float) or not (mean == 0 or 1 <= mean < float("inf")):
        raise SettingsError(f"sim profile {path}: mean_output_tokens must be 0 or at least 1, got {mean!r}")
    return SimProfile(cost=cost_model_from(values, f"sim profile {path}"), mean_output_tokens=float(mean))


def _from_performance_profile(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Keys of the cost model. What a profile leaves out is 0, but a transfer that was not measured is the example's."""
    spec = document.get("spec")
    try:
        assert isinstance(spec, dict)
        found: dict[str, Any] = dict.fromkeys(PROFILE_KEYS.values(), 0.0)
        for name in ("transfer_latency_seconds", "transfer_bytes_per_second"):
            found[name] = getattr(CostModel(), name)
        for (group, key), name in PROFILE_KEYS.items():
            if key in (spec.get(group) or {}):
                found[name] = float(spec[group][key])
        sizes = {name: int(spec[key]) for key, name in SIZE_KEYS.items()}
        origin = spec["provenance"]
        text = f"{origin['origin']}: {origin.get('source', '')}, {origin['date']}"
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"sim profile {path} is no complete PerformanceProfile: {error!r}") from None
    return found | sizes | {"startup_seconds": float(spec.get("startupSeconds", 0)), "provenance": text}
