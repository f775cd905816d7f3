"""Revisions: every field changes one, or is listed as irrelevant and does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proa_operator import names
from proa_operator.api.autoscaling import Mode
from proa_operator.api.engine import EngineType
from proa_operator.api.kv_transfer import Backend, FailurePolicy
from proa_operator.api.model import Dtype
from proa_operator.api.placement import TolerationOperator
from proa_operator.api.pools import FarSkip, Switch
from proa_operator.api.rollout import OnFailure
from proa_operator.api.security import NetworkPolicy, Profile
from proa_operator.api.service import ServiceSpec, Topology
from proa_operator.render import (
    RenderError,
    RenderSettings,
    Service,
    controller_revision,
    is_revision,
    read_revision,
    revision_of,
)
from proa_operator.render import target_revision as target
from proa_operator.render.revision import IRRELEVANT, TEMPLATE_VERSION
from pydantic import ValidationError

FULL = {
    "model": {"uri": "hf://org/name", "name": "m", "tokenSecretRef": {"name": "s", "key": "k"}},
    "engine": {"type": "native", "image": "i", "args": ["a"], "env": [{"name": "A", "value": "b"}]},
    "accelerator": {"product": "MI300X"},
    "pools": {"prefill": {"podTemplate": {"spec": {"priorityClassName": "p"}}}, "decode": {}},
    "gateway": {"tls": {"secretName": "t"}, "httpRoute": {"hostnames": ["h"]}, "args": ["a"]},
    "placement": {
        "requireLabels": {"a": "b"},
        "tolerations": [{"key": "k", "tolerationSeconds": 3}],
        "networks": ["n"],
    },
}
ENUMS: tuple[type[StrEnum], ...] = (
    Topology, Dtype, EngineType, Backend, FailurePolicy, Switch, FarSkip, Mode, OnFailure, Profile, NetworkPolicy,
    TolerationOperator,
)  # fmt: skip
WORDS = [member.value for enum in ENUMS for member in enum] + ["DPX", "7", "7Gi", "rdma/hca"]
SETTINGS = RenderSettings(
    operator_image="operator:1",
    engine_images={engine: f"{engine.value}:1" for engine in EngineType},
    operator_namespace="proa-system",
    operator_labels={"app": "proa-operator"},
)


def _spec(document: dict[str, Any]) -> ServiceSpec:
    return ServiceSpec.model_validate_json(json.dumps(document))


SPEC = _spec(FULL)
YAML = SPEC.model_dump(mode="json", by_alias=True)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(value, list) and value:
        for idx, part in enumerate(value):
            yield from _leaves(part, (*path, idx))
    elif value not in ({}, []):
        yield path


LEAVES = [path for path in _leaves(YAML) if path[-1] != "toleration_seconds"]


def _changed(path: tuple[str | int, ...]) -> ServiceSpec:
    """The spec with another valid value at `path`."""
    for word in _others(_at(path)):
        document = json.loads(json.dumps(YAML))
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = word
        try:
            return _spec(document)
        except ValidationError:
            continue
    raise AssertionError(f"no other value found for {path}: add one to WORDS")


def _at(path: tuple[str | int, ...]) -> Any:
    found: Any = YAML
    for key in path:
        found = found[key]
    return found


def _others(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return [f"{value}x", *(word for word in WORDS if word != value)]


def _is_irrelevant(path: tuple[str | int, ...]) -> bool:
    dotted = ".".join(str(key) for key in path)
    return any(dotted == prefix or dotted.startswith(f"{prefix}.") for prefix in IRRELEVANT)


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(str(key) for key in path))
def test_a_field_changes_the_revision_unless_it_is_listed(path: tuple[str | int, ...]) -> None:
    assert (revision_of(_changed(path)) == revision_of(SPEC)) is _is_irrelevant(path)


def test_every_listed_field_exists() -> None:
    for listed in IRRELEVANT:
        assert any(_dotted(path).startswith(listed) for path in LEAVES), f"{listed} names no field"


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(key) for key in path)


@given(st.lists(st.sampled_from([path for path in LEAVES if _is_irrelevant(path)]), min_size=1))
def test_irrelevant_changes_come_back_on_a_rollback(paths: list[tuple[str | int, ...]]) -> None:
    present = _changed(paths[-1])
    assert read_revision(_stored()).spec(present).model_dump(exclude={"engine"}) == present.model_dump(
        exclude={"engine"}
    )


@pytest.mark.parametrize("path", [path for path in LEAVES if not _is_irrelevant(path)], ids=_dotted)
def test_a_rollback_restores_what_matters(path: tuple[str | int, ...]) -> None:
    restored = read_revision(_stored()).spec(_changed(path))
    assert revision_of(restored) == revision_of(SPEC)


def test_a_restart_and_a_template_version_make_another_revision() -> None:
    found = [
        revision_of(SPEC),
        revision_of(SPEC, restart="1"),
        revision_of(SPEC, template_version=TEMPLATE_VERSION + 1),
    ]
    assert len(set(found)) == 3
    assert all(len(one) == names.REVISION_CHARACTERS and int(one, 16) >= 0 for one in found)


def test_given_and_absent_defaults_are_the_same_revision() -> None:
    assert revision_of(_spec({**FULL, "kvTransfer": {"leaseSeconds": 30}})) == revision_of(SPEC)


def test_the_target_is_a_stored_revision_that_the_spec_still_means() -> None:
    old = revision_of(SPEC, template_version=0)
    stored = [read_revision(_stored(revision=old, template_version=0))]
    assert target(SPEC, stored) == old, "an upgrade of the operator rolls nothing"
    assert target(SPEC, []) == revision_of(SPEC)
    other = _changed(("engine", "args", 0))
    assert target(other, stored) == revision_of(other)
    assert target(SPEC, stored, restart="now") not in (old, revision_of(SPEC))


def test_an_image_of_the_chart_is_kept_with_the_revision() -> None:
    service = _service(_spec({**FULL, "engine": {"type": "native"}}))
    stored = controller_revision(service, revision="0" * 8, number=1, started_at="", settings=SETTINGS)
    assert read_revision(stored).spec(service.spec).engine.image == "native:1"


def test_what_was_stored_is_read_back() -> None:
    read = read_revision(_stored(failed="NoProgress"))
    assert (read.revision, read.number, read.started_at, read.failed, read.template_version) == (
        revision_of(SPEC), 4, "2026-11-24T07:00:00Z", "NoProgress", TEMPLATE_VERSION,
    )  # fmt: skip


def test_a_stateful_sets_own_revision_is_told_apart() -> None:
    copied = _stored()
    copied["metadata"]["labels"][names.COMPONENT_LABEL] = names.Component.WORKER.value
    assert (is_revision(_stored()), is_revision(copied), is_revision({})) == (True, False, False)


@pytest.mark.parametrize("missing", ["data", "revision", "metadata"])
def test_a_foreign_controller_revision_is_refused(missing: str) -> None:
    stored = _stored()
    del stored[missing]
    with pytest.raises(RenderError, match="delete it"):
        read_revision(stored)


def test_a_stored_spec_of_another_version_is_refused_with_its_field() -> None:
    stored = _stored()
    stored["data"]["spec"]["engine"]["gone"] = 1
    with pytest.raises(RenderError, match=r"engine\.gone"):
        read_revision(stored).spec(SPEC)


def _service(spec: ServiceSpec = SPEC) -> Service:
    return Service(name="tiny", namespace="default", uid="u", spec=spec)


def _stored(revision: str = "", failed: str = "", template_version: int = TEMPLATE_VERSION) -> dict[str, Any]:
    return controller_revision(
        _service(),
        revision=revision or revision_of(SPEC),
        number=4,
        started_at="2026-11-24T07:00:00Z",
        settings=SETTINGS,
        failed=failed,
        template_version=template_version,
    )
