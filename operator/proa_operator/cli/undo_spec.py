"""The spec that an undo writes. Pure."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

from proa_operator.api.service import ServiceSpec
from proa_operator.render import StoredRevision, revision_of


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoSpec:
    """What to write so that the operator finds the old revision again."""

    spec: dict[str, Any]
    restart: str
    """Value of the annotation proa.dev/restart."""
    is_same_revision: bool
    """False: the operator will make a new revision with the old spec."""


def undo_spec(stored: StoredRevision, present: ServiceSpec, restart: str) -> UndoSpec:
    """The stored spec with the present replicas, gateway and other fields that roll nothing.

    A stored spec has the engine's image filled in, and does not say which restart it was: of the forms that it can come
    from, the one with the revision's own digest is taken.
    """
    spec = stored.spec(present)
    forms = [spec, _with_image(spec, "")]
    for form, mark in itertools.product(forms, dict.fromkeys([restart, ""])):
        if revision_of(form, template_version=stored.template_version, restart=mark) == stored.revision:
            return UndoSpec(spec=_dump(form), restart=mark, is_same_revision=True)
    return UndoSpec(spec=_dump(spec), restart=restart, is_same_revision=False)


def _with_image(spec: ServiceSpec, image: str) -> ServiceSpec:
    return spec.model_copy(update={"engine": spec.engine.model_copy(update={"image": image})})


def _dump(spec: ServiceSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))
    return found
