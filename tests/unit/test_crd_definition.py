"""The three CustomResourceDefinitions: what holds for all of them, and that the committed files are those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator.api.rule import Rule
from proa_operator.crd.definition import definition, definition_yaml, schema
from proa_operator.crd.kinds import KINDS, Kind
from proa_operator.crd.schema import SchemaError

from tools.gen_crd import TEMPLATES, generated, stale

REFUSED_KEYS = {"$ref", "$defs", "title", "const", "oneOf", "allOf", "exclusiveMinimum", "definitions"}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.short)


def _schemas(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, part in node.get("properties", {}).items():
        yield from _schemas(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from _schemas(node[key], f"{path}[]")


def _forbidden(root: dict[str, Any]) -> list[str]:
    """Paths of schemas that hold a keyword which Kubernetes refuses in a structural schema."""
    return [f"{path}: {key}" for path, node in _schemas(root) for key in node.keys() & REFUSED_KEYS]


@every_kind
def test_is_structural(kind: Kind) -> None:
    root = schema(kind)
    assert _forbidden(root) == []
    typeless = [p for p, node in _schemas(root) if "type" not in node and not node.get("x-kubernetes-int-or-string")]
    assert typeless == []


def test_a_ref_that_is_left_is_found() -> None:
    root = schema(KINDS[0])
    root["properties"]["spec"]["properties"]["model"] = {"$ref": "#/$defs/Model"}
    assert _forbidden(root) == [".spec.model: $ref"]


@every_kind
def test_every_rule_stands_at_its_path(kind: Kind) -> None:
    found = [entry["rule"] for _, node in _schemas(schema(kind)) for entry in node.get("x-kubernetes-validations", ())]
    assert sorted(found) == sorted(rule.cel for rule in kind.rules)


@every_kind
def test_the_status_has_no_defaults(kind: Kind) -> None:
    status = schema(kind)["properties"].get("status", {})
    assert [path for path, node in _schemas(status) if "default" in node] == []


@every_kind
def test_every_column_shows_a_field_that_exists(kind: Kind) -> None:
    root = schema(kind)
    for column in kind.columns:
        node = root
        if column.path.startswith(".metadata"):
            continue
        for name in column.path.partition("[?")[0].strip(".").split("."):
            assert name in node["properties"], column.path
            node = node["properties"][name]


def test_a_rule_without_its_field_is_refused() -> None:
    rule = Rule(path="spec.modle", field="uri", cel="true", holds=lambda model: True, message="")
    with pytest.raises(SchemaError, match=r"a rule names spec\.modle, but there is no field modle"):
        definition(replace(KINDS[0], rules=(rule,)))


def test_what_helm_would_expand_is_refused() -> None:
    rule = Rule(path="spec.model", field="uri", cel="true", holds=lambda model: True, message="use {{ this }}")
    with pytest.raises(SchemaError, match="which Helm would expand"):
        definition_yaml(replace(KINDS[0], rules=(rule,)))


def test_the_committed_files_are_current() -> None:
    assert stale(TEMPLATES) == [], "run python tools/gen_crd.py"


def test_a_changed_and_a_foreign_file_are_found(tmp_path: Path) -> None:
    for name, text in generated().items():
        (tmp_path / name).write_text(text)
    assert stale(tmp_path) == []
    (tmp_path / "workerpools.yaml").write_text("# edited by hand\n")
    (tmp_path / "others.yaml").write_text("")
    (tmp_path / "performanceprofiles.yaml").unlink()
    assert stale(tmp_path) == ["others.yaml", "performanceprofiles.yaml", "workerpools.yaml"]


@every_kind
def test_yaml_says_the_same(kind: Kind) -> None:
    assert yaml.safe_load(definition_yaml(kind)) == definition(kind)
