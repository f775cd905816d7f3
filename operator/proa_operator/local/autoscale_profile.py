"""A PerformanceProfile from a file, alone or beside the service that it is for."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from pydantic import ValidationError

from proa_operator.api.load import is_profile
from proa_operator.api.performance_profile import PERFORMANCE_PROFILE_RULES, PerformanceProfile, PerformanceProfileSpec
from proa_operator.api.rule import Rule, breaches
from proa_operator.api.yaml_text import documents
from proa_operator.errors import ManifestError


def load_profile(path: Path) -> PerformanceProfileSpec:
    """The one profile in `path`, which may hold its service too (`proa size` writes both). Raises ManifestError."""
    try:
        found = documents(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); give a PerformanceProfile") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    kept = found if len(found) == 1 else [one for one in found if is_profile(one)]
    if len(kept) != 1:
        raise ManifestError(f"{path}: holds {len(kept)} PerformanceProfiles; keep exactly one in it")
    try:
        profile = PerformanceProfile.model_validate_json(json.dumps(kept[0], default=str))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise ManifestError(f"{path}: {field}: {first['msg']}; correct it") from None
    rules = [rule for rule in PERFORMANCE_PROFILE_RULES if isinstance(rule, Rule)]
    for breach in breaches(profile, rules):
        raise ManifestError(f"{path}: {breach.field}: {breach.message}")
    return profile.spec
