"""From a YAML file to a validated DisaggregatedService, or to errors of one line each: file, field, fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proa_operator.api.rule import breaches
from proa_operator.api.rules import RULES
from proa_operator.api.service import API_VERSION, KIND, DisaggregatedService
from proa_operator.api.yaml_text import documents
from proa_operator.errors import ManifestError


def load(path: Path, *, is_local: bool = False) -> DisaggregatedService:
    """Read and validate the one DisaggregatedService in `path`; PerformanceProfiles may stand beside it.

    Raises ManifestError, one line for each problem; `is_local` leaves out the rules that hold in a cluster only.
    """
    document = _one_document(path, _text(path))
    _check_kind(path, document)
    try:
        service = DisaggregatedService.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        raise ManifestError(_lines(path, [_explain(detail) for detail in error.errors()])) from None
    broken = [f"{breach.field}: {breach.message}" for breach in breaches(service, RULES, is_local=is_local)]
    if broken:
        raise ManifestError(_lines(path, broken))
    return service


def _lines(path: Path, problems: list[str]) -> str:
    return "\n".join(f"{path}: {problem}" for problem in problems)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; give the path of a DisaggregatedService manifest") from None
    except IsADirectoryError:
        raise ManifestError(f"{path}: is a folder; give the path of one manifest in it") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: is not UTF-8 text; give a YAML manifest") from None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from None


def _one_document(path: Path, text: str) -> dict[str, Any]:
    try:
        found = documents(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ManifestError(f"{path}{where}: is not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: is not valid YAML: {str(error).splitlines()[0]}") from None
    kept = found if len(found) == 1 else [one for one in found if not is_profile(one)]  # `proa size` writes both
    if len(kept) != 1:
        besides = " besides its PerformanceProfile" if len(found) > len(kept) else ""
        raise ManifestError(f"{path}: holds {len(kept)} YAML documents{besides}; keep exactly one {KIND} in it")
    if not isinstance(kept[0], dict):
        raise ManifestError(f"{path}: is not a manifest; it must start with apiVersion: {API_VERSION}")
    return kept[0]


def is_profile(document: object) -> bool:
    """Whether a YAML document is a PerformanceProfile, which may stand beside its service."""
    return isinstance(document, dict) and document.get("kind") == "PerformanceProfile"


def _check_kind(path: Path, document: dict[str, Any]) -> None:
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(field) != wanted:
            found = f"is {document[field]!r}" if field in document else "is missing"
            raise ManifestError(f"{path}: {field} {found}; set it to {wanted}")


def _explain(detail: ErrorDetails) -> str:
    return f"{_field(detail['loc'])}: {_problem(detail)}"


def _field(loc: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".")


def _problem(detail: ErrorDetails) -> str:
    kind, found = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "is not a field; check its spelling and indentation, or remove it"
    if kind == "missing":
        return "is missing; add it"
    if kind == "enum" and isinstance(found, bool):
        return f'YAML reads on and off without quotes as booleans; write "{"on" if found else "off"}"'
    if kind == "enum":
        return f"is {found!r}; use {context['expected']}"
    if kind == "string_type" and isinstance(found, int | float):
        return f'is a number to YAML; write it in quotes, such as "{found}"'
    if kind == "string_pattern_mismatch":
        return f"is {found!r}, which does not match {context['pattern']}; correct it"
    said = detail["msg"].removeprefix("Input ").removeprefix("String ")
    return f"is {_short(found)}; it {said}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
