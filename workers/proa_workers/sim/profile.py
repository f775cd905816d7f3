"""A simulated worker's behaviour from a YAML file: the cost model's keys and the length of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from proa_workers.errors import SettingsError
from proa_workers.sim.cost import CostModel, cost_model_from


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
    mean = values.pop("mean_output_tokens", 0.0)
    if isinstance(mean, bool) or not isinstance(mean, int | float) or not (mean == 0 or 1 <= mean < float("inf")):
        raise SettingsError(f"sim profile {path}: mean_output_tokens must be 0 or at least 1, got {mean!r}")
    return SimProfile(cost=cost_model_from(values, f"sim profile {path}"), mean_output_tokens=float(mean))
