"""Revisions: what they depend on, and how they are kept.

A revision is a digest over the part of the spec that affects pods or KV compatibility. Its ControllerRevision keeps
that part, with the engine image filled in, so that a later chart changes nothing in groups that run already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from proa_operator import names
from proa_operator.api.service import ServiceSpec
from proa_operator.names import Component
from proa_operator.render.digest import digest8
from proa_operator.render.errors import RenderError
from proa_operator.render.metadata import child, component_selector
from proa_operator.render.pod import engine_image
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings

TEMPLATE_VERSION = 1
"""Raised when the rendered pods change in a way that running groups must not mix with."""

IRRELEVANT: tuple[str, ...] = (
    "slo",
    "autoscaling",
    "rollout",
    "drain",
    "health",
    "gateway",
    "model.cache.size",
    "model.tokenSecretRef",
    "pools.prefill.replicas",
    "pools.decode.replicas",
    "security.networkPolicy",
)
"""Fields that roll nothing. They act on running groups, on other objects, or on a pod's next start (drain)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRevision:
    """A ControllerRevision as it was read back."""

    revision: str
    number: int
    """Grows with each rollout; the highest one that has not failed is what a rollback returns to."""
    started_at: str
    """RFC 3339; when the rollout to it began."""
    failed: str
    """Why it was given up; empty when it was not."""
    template_version: int
    part: JsonObject
    """The relevant part of its spec."""

    def spec(self, present: ServiceSpec) -> ServiceSpec:
        """This revision's spec, with the present replicas, gateway and other irrelevant fields."""
        return _read(_overlaid(self.part, _dump(present)))


def revision_of(spec: ServiceSpec, *, template_version: int = TEMPLATE_VERSION, restart: str = "") -> str:
    """8 hex digits over all that is not at its default, so that a field which a later version adds rolls nothing.

    `restart` is the value of the annotation proa.dev/restart.

    Compare with a stored revision by its own `template_version`: then an upgrade of the operator rolls nothing.
    """
    return digest8([template_version, restart, _dump(_read(relevant_part(spec)), exclude_defaults=True)])


def target_revision(spec: ServiceSpec, stored: Iterable[StoredRevision], *, restart: str = "") -> str:
    """The revision that `spec` asks for: the latest stored one that equals it by its own version, or a new one.

    So an upgrade of the operator keeps what runs, and a spec that is taken back finds its old groups.
    """
    for known in sorted(stored, key=lambda revision: revision.number, reverse=True):
        if revision_of(spec, template_version=known.template_version, restart=restart) == known.revision:
            return known.revision
    return revision_of(spec, restart=restart)


def relevant_part(spec: ServiceSpec) -> JsonObject:
    """The spec as in YAML, all defaults filled in, without the fields of IRRELEVANT."""
    part = _dump(spec)
    for path in IRRELEVANT:
        _remove(part, path)
    return part


def controller_revision(
    service: Service,
    *,
    revision: str,
    number: int,
    started_at: str,
    settings: RenderSettings,
    failed: str = "",
    template_version: int = TEMPLATE_VERSION,
) -> JsonObject:
    """Data never changes after creation (the API server refuses it); number, start and failure may."""
    part = relevant_part(service.spec)
    part["engine"]["image"] = engine_image(service.spec, settings)
    labels = component_selector(service, Component.REVISION) | {names.REVISION_LABEL: revision}
    stored = child(service, "apps/v1", "ControllerRevision", names.revision_name(service.name, revision), labels=labels)
    annotations = {names.STARTED_ANNOTATION: started_at}
    if failed:
        annotations[names.FAILED_ANNOTATION] = failed
    stored["metadata"]["annotations"] = dict(sorted(annotations.items()))
    stored["revision"] = number
    stored["data"] = {"spec": part, "templateVersion": template_version}
    return stored


def is_revision(stored: Mapping[str, Any]) -> bool:
    """Whether a ControllerRevision with the service's label is the operator's own.

    NOTE: those of the StatefulSet controller copy all labels of the pods, the service and the revision among them.
    """
    labels = (stored.get("metadata") or {}).get("labels") or {}
    return bool(labels.get(names.COMPONENT_LABEL) == Component.REVISION.value)


def read_revision(stored: Mapping[str, Any]) -> StoredRevision:
    """The inverse of `controller_revision`. RenderError when someone else wrote or changed the object."""
    try:
        meta, data = stored["metadata"], stored["data"]
        annotations = meta.get("annotations") or {}
        return StoredRevision(
            revision=meta["labels"][names.REVISION_LABEL],
            number=int(stored["revision"]),
            started_at=annotations.get(names.STARTED_ANNOTATION, ""),
            failed=annotations.get(names.FAILED_ANNOTATION, ""),
            template_version=int(data["templateVersion"]),
            part=dict(data["spec"]),
        )
    except (KeyError, TypeError, ValueError):
        name = (stored.get("metadata") or {}).get("name", "?")
        raise RenderError(f"ControllerRevision {name} is not one of Proa's: delete it") from None


def _dump(spec: ServiceSpec, *, exclude_defaults: bool = False) -> JsonObject:
    return spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=exclude_defaults)


def _remove(part: JsonObject, path: str) -> None:
    *parents, leaf = path.split(".")
    found: Any = part
    for name in parents:
        found = found.get(name)
        if found is None:
            return
    found.pop(leaf, None)


def _overlaid(part: JsonObject, present: JsonObject) -> JsonObject:
    """`part` with the fields of IRRELEVANT from `present`, where both have their parent."""
    spec: JsonObject = json.loads(json.dumps(part))
    for path in IRRELEVANT:
        *parents, leaf = path.split(".")
        source, target = present, spec
        for name in parents:
            source, target = source.get(name) or {}, target.get(name) or {}
        if leaf in source and target:
            target[leaf] = source[leaf]
    return spec


def _read(spec: JsonObject) -> ServiceSpec:
    try:
        return ServiceSpec.model_validate_json(json.dumps(spec))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RenderError(
            f"a stored revision does not fit this version: {field}: {first['msg']}; roll out again"
        ) from None
