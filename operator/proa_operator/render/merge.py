"""Strategic merge of a pool's `podTemplate` over the pod template that the operator renders.

A subset of Kubernetes' strategic merge patch: objects merge field by field and null removes a field; a list with a
merge key merges element by element, new elements at its end; tolerations are added; every other list replaces.
`$patch: delete` in an element of a keyed list removes it. Other directives are refused, and so is what would take a
pod out of the operator's hands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proa_operator import names
from proa_operator.render.errors import RenderError
from proa_operator.render.service import JsonObject

MERGE_KEYS: dict[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "env": "name",
    "ports": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
}
"""Lists of a pod template -> the field that tells their elements apart."""
ADDED_LISTS = frozenset({"tolerations"})
ONE_SOURCE_LISTS = frozenset({"env", "volumes"})
OWNED_POD_FIELDS = frozenset({"schedulingGates", "readinessGates", "restartPolicy", "hostname", "subdomain"})
_DIRECTIVE = "$"
_DELETE = "$patch"


def merge_template(base: JsonObject, patch: Mapping[str, Any], *, where: str) -> JsonObject:
    """A new template. RenderError names the field below `where` that cannot be merged."""
    for key in sorted(set(patch) - {"metadata", "spec"}):
        raise RenderError(f"{where}.{key}: a pod template has metadata and spec only; move the field into spec")
    _check_owned(patch, where)
    merged = _merge_objects(base, patch, where)
    _check_worker(merged, where)
    return merged


def _check_owned(patch: Mapping[str, Any], where: str) -> None:
    pod = _object(patch.get("spec", {}), f"{where}.spec")
    for field in sorted(OWNED_POD_FIELDS & set(pod)):
        raise RenderError(f"{where}.spec.{field}: belongs to the operator; remove it")
    meta = _object(patch.get("metadata", {}), f"{where}.metadata")
    for field in sorted(set(meta) - {"labels", "annotations"}):
        raise RenderError(f"{where}.metadata.{field}: only labels and annotations can be set; remove it")
    reserved = {names.NAME_LABEL, names.COMPONENT_LABEL, names.MANAGED_BY_LABEL}
    for kind in ("labels", "annotations"):
        for key in sorted(_object(meta.get(kind, {}), f"{where}.metadata.{kind}")):
            if key.startswith(f"{names.GROUP}/") or key in reserved:
                raise RenderError(f"{where}.metadata.{kind}.{key}: belongs to the operator; use another key")


def _check_worker(template: JsonObject, where: str) -> None:
    containers = [container.get("name") for container in template["spec"].get("containers") or []]
    if names.WORKER_CONTAINER not in containers:
        raise RenderError(f"{where}.spec.containers: removes the container {names.WORKER_CONTAINER}; keep it")


def _merge_objects(base: Mapping[str, Any], patch: Mapping[str, Any], where: str) -> JsonObject:
    merged = dict(base)
    for name, value in patch.items():
        path = f"{where}.{name}"
        if name.startswith(_DIRECTIVE):
            raise RenderError(f"{path}: is a directive that podTemplate does not know; give the field itself")
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(name, base.get(name), value, path)
    return merged


def _merge(name: str, base: Any, value: Any, path: str) -> Any:
    if isinstance(base, dict):
        return _merge_objects(base, _object(value, path), path)
    if name in MERGE_KEYS:
        return _merge_lists(name, base or [], _list(value, path), path)
    if name in ADDED_LISTS:
        return [*(base or []), *(element for element in _list(value, path) if element not in (base or []))]
    if isinstance(base, list):
        return _list(value, path)
    if isinstance(value, dict):
        return _merge_objects({}, value, path)
    return value


def _merge_lists(name: str, base: list[JsonObject], patch: list[Any], path: str) -> list[JsonObject]:
    key = MERGE_KEYS[name]
    merged = {element[key]: element for element in base}
    for idx, element in enumerate(patch):
        here = f"{path}[{idx}]"
        found = dict(_object(element, here))
        if key not in found:
            raise RenderError(f"{here}: has no {key}, by which elements are merged; add it")
        directive = found.pop(_DELETE, None)
        if directive == "delete":
            merged.pop(found[key], None)
        elif directive is not None:
            raise RenderError(f"{here}.{_DELETE}: is {directive!r}; only delete is known")
        else:
            merged[found[key]] = _merge_element(name, merged.get(found[key]), found, here)
    return list(merged.values())


def _merge_element(name: str, base: JsonObject | None, patch: JsonObject, path: str) -> JsonObject:
    """A variable or volume has one source: another one replaces the element, instead of leaving two."""
    has_other_source = name in ONE_SOURCE_LISTS and base is not None and set(base) != set(patch)
    return _merge_objects({} if base is None or has_other_source else base, patch, path)


def _object(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RenderError(f"{path}: must be an object, as in a pod's manifest")
    return value


def _list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise RenderError(f"{path}: must be a list, as in a pod's manifest")
    return value
