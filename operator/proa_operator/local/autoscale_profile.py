"""A PerformanceProfile from a file."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from pydantic import ValidationError

from proa_operator.api.performance_profile import PERFORMANCE_PROFILE_RULES, PerformanceProfile, PerformanceProfileSpec
from proa_operator.api.rule import Rule, breaches
from proa_operator.errors import ManifestError


def load_profile(path: Path) -> PerformanceProfileSpec:
    """The one profile in `path`. Raises ManifestError, in one line."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); give a PerformanceProfile") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        profile = PerformanceProfile.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(f"{path}: {field}: {first['msg']}; correct it") from None
    rules = [rule for rule in PERFORMANCE_PROFILE_RULES if isinstance(rule, Rule)]
    for breach in breaches(profile, rules):
        raise ManifestError(f"{path}: {breach.field}: {breach.message}")
    return profile.spec
