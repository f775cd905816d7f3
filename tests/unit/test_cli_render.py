"""`proa render`: the children of a manifest without a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from proa_operator.cli.main import app
from proa_operator.cli.render import rendered
from proa_operator.cli.render_settings import chart_defaults
from proa_operator.render import RenderError
from typer.testing import CliRunner

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = EXAMPLES / "tiny.yaml"


def _names(path: Path, kind: str) -> list[str]:
    objects = rendered(path, None, chart_defaults())
    return [item["metadata"]["name"].split("-", 2)[-1] for item in objects if item["kind"] == kind]


def test_every_group_of_the_manifest_is_there(tmp_path: Path) -> None:
    manifest = tmp_path / "deepseek.yaml"
    text = (EXAMPLES / "deepseek-v3-mi300x.yaml").read_text()
    text = text.replace("type: vllm", "type: sim").replace("dtype: fp8", "dtype: bfloat16")
    manifest.write_text(text.replace("mtp: 1", "mtp: 0"))
    groups = _names(manifest, "StatefulSet")
    assert [name.split("-", 1)[1] for name in groups] == ["prefill-000", "prefill-001", "decode-000"]


def test_each_object_is_there_once_and_pools_have_their_numbers() -> None:
    objects = rendered(TINY, None, chart_defaults())
    keys = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(keys) == len(set(keys))
    assert [item["spec"]["replicas"] for item in objects if item["kind"] == "WorkerPool"] == [1, 1]


def test_no_object_names_an_owner() -> None:
    assert not any("ownerReferences" in item["metadata"] for item in rendered(TINY, None, chart_defaults()))


@pytest.mark.parametrize(("given", "namespace"), [(None, "default"), ("team", "team")])
def test_namespace(given: str | None, namespace: str) -> None:
    assert {item["metadata"]["namespace"] for item in rendered(TINY, given, chart_defaults())} == {namespace}


def test_formats_hold_the_same_objects() -> None:
    as_yaml = CliRunner().invoke(app, ["render", str(TINY)])
    as_json = CliRunner().invoke(app, ["render", str(TINY), "--output", "json"])
    documents, items = list(yaml.safe_load_all(as_yaml.stdout)), json.loads(as_json.stdout)["items"]
    for item in (documents[0], items[0]):
        del item["metadata"]["annotations"]  # the time
    assert documents == items


def test_what_cannot_be_rendered_is_refused_with_the_fix() -> None:
    with pytest.raises(RenderError, match=r"spec\.engine\.type: proa-worker does not run vllm yet; set native"):
        rendered(EXAMPLES / "deepseek-v3-mi300x.yaml", None, chart_defaults())
