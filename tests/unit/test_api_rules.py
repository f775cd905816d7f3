"""Each rule refuses what it should, the same in Python and in CEL; every rule has a planted fault here."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from celpy import celtypes
from proa_operator.api.load import load
from proa_operator.api.reference import reference
from proa_operator.api.rule import Breach, Rule, breaches, transition_breaches
from proa_operator.api.rules import RULES, TRANSITION_RULES
from proa_operator.api.service import DisaggregatedService

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
GPU = """
apiVersion: proa.dev/v1alpha1
kind: DisaggregatedService
metadata: {name: x}
spec:
  model: {uri: "hf://org/model", name: x}
  accelerator: {product: MI300X, gpusPerPod: 8}
  pools:
    prefill: {parallelism: {tp: 1, dp: 8, ep: 8}}
    decode: {nodesPerGroup: 2, parallelism: {tp: 4, dp: 4, ep: 1}}
"""

# (path, value that breaks exactly one rule, field that the message names)
FAULTS: list[tuple[str, Any, str]] = [
    ("metadata.name", "a" * 32, "metadata.name"),
    ("metadata.name", "Deep", "metadata.name"),
    ("metadata.name", "3deep", "metadata.name"),
    ("metadata.name", "deep-", "metadata.name"),
    ("metadata.name", "deep.seek", "metadata.name"),
    ("spec.model.uri", "org/model", "spec.model.uri"),
    ("spec.model.uri", "hf://model", "spec.model.uri"),
    ("spec.model.uri", "file://relative/path", "spec.model.uri"),
    ("spec.model.uri", "s3://bucket/model", "spec.model.uri"),
    ("spec.model.uri", "bundled://../x", "spec.model.uri"),
    ("spec.model.tokenSecretRef", {"name": "hf"}, "spec.model.tokenSecretRef.key"),
    ("spec.gateway", {"apiKeySecretRef": {"key": "k"}}, "spec.gateway.apiKeySecretRef.key"),
    ("spec.pools.prefill", None, "spec.pools.prefill"),
    ("spec.pools.prefill.parallelism", {"dp": 4}, "spec.pools.prefill.parallelism"),
    ("spec.pools.decode.parallelism", {"tp": 4, "dp": 2}, "spec.pools.decode.parallelism"),
    ("spec.pools.decode.nodesPerGroup", 1, "spec.pools.decode.parallelism"),
    ("spec.pools.prefill.parallelism.ep", 4, "spec.pools.prefill.parallelism.ep"),
    ("spec.pools.decode.parallelism.ep", 8, "spec.pools.decode.parallelism.ep"),
    ("spec.accelerator.partition", "CPX", "spec.accelerator.partition"),
    ("spec.kvTransfer", {"backend": "shm"}, "spec.kvTransfer.backend"),
    ("spec.drain", {"timeoutSeconds": 29}, "spec.drain.timeoutSeconds"),
    ("spec.autoscaling", {"prefill": {"min": 2, "max": 1}}, "spec.autoscaling.prefill.min"),
    ("spec.autoscaling", {"decode": {"min": 3, "max": 2}}, "spec.autoscaling.decode.min"),
    ("spec.autoscaling", {"ratio": {"min": "1/4"}}, "spec.autoscaling.ratio.min"),
    ("spec.autoscaling", {"ratio": {"max": "0:1"}}, "spec.autoscaling.ratio.max"),
    ("spec.autoscaling", {"ratio": {"min": "2:3", "max": "1:2"}}, "spec.autoscaling.ratio.min"),
    ("spec.autoscaling", {"prefill": {"min": 0}}, "spec.autoscaling.prefill.min"),
    ("spec.rollout", {"maxSurgeGroups": 0}, "spec.rollout.maxSurgeGroups"),
    ("spec.rollout", {"analysis": {"maxErrorRate": "1.01"}}, "spec.rollout.analysis.maxErrorRate"),
    ("spec.rollout", {"analysis": {"maxTTFTRatio": "0.9"}}, "spec.rollout.analysis.maxTTFTRatio"),
]
CEL = celpy.Environment()


def _split(text: celtypes.StringType, separator: celtypes.StringType) -> celtypes.ListType:
    """Kubernetes' string library, which celpy does not have."""
    return celtypes.ListType([celtypes.StringType(part) for part in str(text).split(str(separator))])


def _service(path: str = "", value: Any = None) -> DisaggregatedService:
    document = yaml.safe_load(GPU)
    if path:
        *parents, last = path.split(".")
        parent = reduce(lambda node, name: node.setdefault(name, {}), parents, document)
        parent[last] = value
        if value is None:
            del parent[last]
    text = yaml.safe_dump(document)
    return DisaggregatedService.model_validate_json(json.dumps(yaml.safe_load(text)))


def _cel_holds(rule: Rule, service: DisaggregatedService) -> bool:
    subject: Any = service.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name in filter(None, rule.path.split(".")):
        if name not in subject:
            return True
        subject = subject[name]
    program = CEL.program(CEL.compile(rule.cel), functions={"split": _split})
    return bool(program.evaluate({"self": celpy.json_to_cel(subject)}))


def _cel_fields(service: DisaggregatedService) -> list[str]:
    return [f"{rule.path}.{rule.field}".removeprefix(".") for rule in RULES if not _cel_holds(rule, service)]


def test_the_sound_manifest_breaks_nothing() -> None:
    assert list(breaches(_service(), RULES)) == []
    assert _cel_fields(_service()) == []


@pytest.mark.parametrize(("path", "value", "field"), FAULTS)
def test_fault_breaks_one_rule_in_python_and_in_cel(path: str, value: Any, field: str) -> None:
    service = _service(path, value)
    assert [breach.field for breach in breaches(service, RULES)] == [field]
    assert _cel_fields(service) == [field]


def test_every_rule_has_a_fault() -> None:
    caught: set[Breach] = set()
    for path, value, _ in FAULTS:
        caught.update(breaches(_service(path, value), RULES))
    assert len(caught) == len(RULES)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_cel_accepts_the_examples(file: Path) -> None:
    assert _cel_fields(load(file)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.model.uri", "pvc://models/deepseek"),
        ("spec.model.uri", "file:///models/deepseek"),
        ("spec.model.uri", "oci://registry.example/models/deepseek:v3"),
        ("spec.model.uri", "bundled://tiny-moe"),
        ("spec.autoscaling", {"ratio": {"min": "2:4", "max": "1:2"}}),
        ("spec.autoscaling", {"prefill": {"min": 0}, "decode": {"min": 0}}),
        ("spec.accelerator", None),
    ],
)
def test_at_the_edge_of_a_rule(path: str, value: Any) -> None:
    assert list(breaches(_service(path, value), RULES)) == []
    assert _cel_fields(_service(path, value)) == []


def test_aggregated_needs_no_prefill_pool() -> None:
    document = yaml.safe_load(GPU)
    document["spec"]["topology"] = "Aggregated"
    del document["spec"]["pools"]["prefill"]
    service = DisaggregatedService.model_validate_json(json.dumps(document))
    assert list(breaches(service, RULES)) == []
    assert _cel_fields(service) == []


def test_cluster_rules_do_not_hold_locally() -> None:
    assert list(breaches(_service("spec.kvTransfer", {"backend": "shm"}), RULES, is_local=True)) == []


def test_the_name_of_a_model_cannot_change() -> None:
    old, new = _service(), _service("spec.model.name", "y")
    assert [breach.field for breach in transition_breaches(old, new, TRANSITION_RULES)] == ["spec.model.name"]
    assert list(transition_breaches(old, old, TRANSITION_RULES)) == []


def test_a_rule_on_an_unknown_field_is_refused() -> None:
    rule = Rule(path="spec.modle", field="uri", cel="true", holds=lambda model: True, message="")
    with pytest.raises(ValueError, match="modle"):
        list(breaches(_service(), [rule]))


def test_the_reference_in_the_docs_is_current() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()
    assert manual.split("<!-- reference -->\n")[1] == reference(), "run python -m proa_operator.api.reference"
