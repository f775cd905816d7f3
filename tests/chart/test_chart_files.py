"""Values, their schema, their comments, the READMEs and the templates say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from tools.gen_chart_readme import MARKER, documented, readme

CHARTS = Path(__file__).parents[2] / "charts"
CHART = CHARTS / "proa"
Helm = Callable[..., "CompletedProcess[str]"]


def _schema_paths(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, part in node.get("properties", {}).items():
        if f"{prefix}{name}" != "global":  # Helm hands `global` to every chart
            yield f"{prefix}{name}"
        yield from _schema_paths(part, f"{prefix}{name}.")


def _open(node: dict[str, Any], path: str = "") -> list[str]:
    """Paths of objects with known keys that take unknown ones too."""
    children = [hole for name, part in node.get("properties", {}).items() for hole in _open(part, f"{path}.{name}")]
    is_open = "properties" in node and node.get("additionalProperties") is not False
    return [path, *children] if is_open else children


def _unused(paths: list[str]) -> list[str]:
    """Leaves that no template reads."""
    leaves = [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    names = set(re.findall(r"\.([A-Za-z]+)", text))
    return [path for path in leaves if path.rpartition(".")[2] not in names and path.rpartition(".")[0] != "resources"]


def _values() -> list[str]:
    return [value.path for value in documented((CHART / "values.yaml").read_text().splitlines())]


def test_schema_and_values_have_the_same_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert sorted(_schema_paths(schema)) == sorted(_values())


@pytest.mark.parametrize("chart", ["proa", "proa-crds"])
def test_the_schema_is_closed(chart: str) -> None:
    assert _open(json.loads((CHARTS / chart / "values.schema.json").read_text())) == []


def test_an_open_schema_is_found() -> None:
    assert _open({"properties": {"a": {"properties": {}}}, "additionalProperties": False}) == [".a"]


def test_every_value_is_used() -> None:
    assert _unused(_values()) == []


def test_an_unused_value_is_found() -> None:
    assert _unused(["image.tag", "image.neverRead"]) == ["image.neverRead"]


@pytest.mark.parametrize("chart", ["proa", "proa-crds"])
def test_the_readme_is_current(chart: str) -> None:
    assert (CHARTS / chart / "README.md").read_text() == readme(CHARTS / chart), "run python tools/gen_chart_readme.py"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("a: 1\n", "values.yaml:1: a has no comment above it"),
        ("# Of a.\na:\n  b: 1\n", r"values.yaml:3: a\.b has no comment above it"),
        ("# Of a.\n\na: 1\n", "values.yaml:3: a has no comment above it"),
        ("# Of a.\na:\n  - x\n", "values.yaml:3: is no key and no comment"),
    ],
)
def test_a_value_without_comment_is_refused(tmp_path: Path, values: str, said: str) -> None:
    (tmp_path / "values.yaml").write_text(values)
    (tmp_path / "README.md").write_text(MARKER)
    with pytest.raises(ValueError, match=said):
        readme(tmp_path)


def test_versions_agree() -> None:
    wheel = re.search(r'^version = "(.*)"$', (CHARTS.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert wheel is not None
    for chart in ("proa", "proa-crds"):
        card = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
        assert (card["version"], card["appVersion"]) == (wheel[1], wheel[1])


@pytest.mark.parametrize("chart", ["proa", "proa-crds"])
def test_helm_lint(helm: Helm, chart: str) -> None:
    done = helm("lint", "--strict", str(CHARTS / chart))
    assert done.returncode == 0, done.stdout
