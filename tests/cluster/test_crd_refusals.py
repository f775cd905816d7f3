"""What the API server refuses, with the message, and that `proa up` refuses the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator.cli.main import app
from proa_operator.errors import ManifestError

from testbed.control_plane import ControlPlane
from tests.cluster.kinds import apply_kinds
from tests.unit.test_api_rules import FAULTS, GPU

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
NAME = "a lowercase RFC 1123 subdomain"  # Kubernetes' own rule for names speaks first

# (path, value, what the API server says of it)
SCHEMA_FAULTS: list[tuple[str, Any, str]] = [
    ("spec.toplogy", "Aggregated", ".spec.toplogy: field not declared in schema"),
    ("spec.pools.decode.replica", 1, ".spec.pools.decode.replica: field not declared in schema"),
    ("spec.topology", "Both", 'supported values: "Disaggregated", "Aggregated"'),
    ("spec.model.name", None, "spec.model.name: Required value"),
    ("spec.model.name", "", "spec.model.name in body should be at least 1 chars long"),
    ("spec.model.uri", "hf://org/" + "x" * 1024, "spec.model.uri: Too long"),
    ("spec.model.cache", {"size": "800 G"}, "spec.model.cache.size in body should match"),
    ("spec.model.cache", {"size": 1.5}, "spec.model.cache.size in body must be of type integer,string"),
    ("spec.model.cache", {"size": -1}, "spec.model.cache.size in body should be greater than or equal to 0"),
    ("spec.engine", {"env": [{"name": "1X"}]}, "spec.engine.env[0].name in body should match"),
    ("spec.engine", {"args": "--x"}, ".spec.engine.args: expected list"),
    ("spec.pools", None, "spec.pools: Required value"),
    ("spec.pools.decode.replicas", "3", ".spec.pools.decode.replicas: expected numeric"),
    ("spec.pools.decode.replicas", -1, "spec.pools.decode.replicas in body should be greater than or equal to 0"),
    ("spec.pools.decode.replicas", 501, "spec.pools.decode.replicas in body should be less than or equal to 500"),
    ("spec.pools.decode.overlap", {"twoBatch": True}, ".spec.pools.decode.overlap.twoBatch: expected string"),
    ("spec.pools.decode.speculative", {"mtp": 9}, "speculative.mtp in body should be less than or equal to 8"),
    ("spec.gateway", {"port": 70000}, "spec.gateway.port in body should be less than or equal to 65535"),
    ("spec.gateway", {"port": 80.5}, "spec.gateway.port in body must be of type integer"),
    ("spec.slo", {"percentile": 100}, "spec.slo.percentile in body should be less than or equal to 99"),
    ("spec.rollout", {"analysis": {"maxErrorRate": "2%"}}, "analysis.maxErrorRate in body should match"),
    ("spec.rollout", {"analysis": {"maxErrorRate": 0.02}}, ".spec.rollout.analysis.maxErrorRate: expected string"),
    ("spec.autoscaling", {"ratio": {"min": "11111111:11111111"}}, "spec.autoscaling.ratio.min: Too long"),
    ("spec.security", {"mtls": "yes"}, ".spec.security.mtls: expected boolean"),
    ("spec.placement", {"requireLabels": {"a": 1}}, ".spec.placement.requireLabels.a: expected string"),
]
Refusal = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="module", autouse=True)
def crds(api: ControlPlane) -> None:
    apply_kinds(api)


@pytest.fixture
def refusal(api: ControlPlane) -> Refusal:
    """What kubectl prints when the API server refuses the object; empty when it takes it."""

    def said(document: dict[str, Any]) -> str:
        done = api.tried("kubectl", "apply", "--server-side", "--dry-run=server", "-f-", stdin=json.dumps(document))
        return done.stderr if done.returncode else ""

    return said


def _manifest(path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(GPU)
    *parents, last = path.split(".")
    parent = reduce(lambda node, name: node.setdefault(name, {}), parents, document)
    parent[last] = value
    if value is None:
        del parent[last]
    return document


def _local_refusal(document: dict[str, Any], tmp_path: Path) -> str:
    """What `proa up` prints, without the file's name; shared memory is for one machine only, so it takes that."""
    file = tmp_path / "manifest.yaml"
    file.write_text(json.dumps(document))
    is_shared = document["spec"].get("kvTransfer", {}).get("backend") == "shm"
    words = ["validate", str(file)] if is_shared else ["up", str(file), "--dry-run"]
    try:
        app(words, standalone_mode=False)
    except ManifestError as error:
        return str(error).replace(f"{file}: ", "")
    return ""


def test_the_sound_manifest_is_taken(refusal: Refusal) -> None:
    assert refusal(yaml.safe_load(GPU)) == ""


@pytest.mark.parametrize(("path", "value", "field"), FAULTS)
def test_a_rule_refuses_with_the_same_words(
    refusal: Refusal, tmp_path: Path, path: str, value: Any, field: str
) -> None:
    document = _manifest(path, value)
    said = [line for line in refusal(document).replace("* ", "").splitlines() if NAME not in line and ": " in line]
    locally = _local_refusal(document, tmp_path)
    assert locally.startswith(f"{field}: ")
    message = locally.removeprefix(f"{field}: ")
    assert said[-1].endswith(f"{field}: Invalid value: {message}")
    assert sum("Invalid value" in line for line in said) == 1


@pytest.mark.parametrize(("path", "value", "words"), SCHEMA_FAULTS)
def test_the_schema_refuses_what_proa_refuses(
    refusal: Refusal, tmp_path: Path, path: str, value: Any, words: str
) -> None:
    document = _manifest(path, value)
    assert words in refusal(document)
    assert _local_refusal(document, tmp_path).startswith(path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_applies(api: ControlPlane, namespace: str, path: Path) -> None:
    api.kubectl("apply", "--validate=strict", f"--namespace={namespace}", f"--filename={path}")
    stored = api.get("dsvc", yaml.safe_load(path.read_text())["metadata"]["name"], namespace)
    assert stored["spec"]["drain"]["timeoutSeconds"] >= stored["spec"]["kvTransfer"]["leaseSeconds"]


@pytest.mark.parametrize("mode", ["apply", "create"])
def test_kubectl_names_the_unknown_field(api: ControlPlane, mode: str) -> None:
    document = json.dumps(_manifest("spec.toplogy", "Aggregated"))
    done = api.tried("kubectl", mode, "--validate=strict", "--dry-run=server", "-f-", stdin=document)
    assert done.returncode != 0
    assert 'unknown field "spec.toplogy"' in done.stderr


def test_the_name_of_a_model_cannot_change(api: ControlPlane, namespace: str) -> None:
    api.kubectl("apply", f"--namespace={namespace}", f"--filename={ROOT / 'examples' / 'tiny.yaml'}")
    change = '{"spec": {"model": {"name": "other"}}}'
    done = api.tried("kubectl", "patch", "dsvc", "tiny", f"--namespace={namespace}", "--type=merge", "-p", change)
    assert "spec.model.name: Invalid value: clients ask for the model by this name, so it cannot change" in done.stderr
