"""A bad manifest gives one line for each problem: file, field, fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from proa_operator.api.load import load
from proa_operator.errors import ManifestError

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
HEAD = "apiVersion: proa.dev/v1alpha1\nkind: DisaggregatedService\nmetadata: {name: x}\n"
POOLS = "  pools: {prefill: {}, decode: {}}\n"
SPEC = 'spec:\n  model: {uri: "bundled://tiny-moe", name: x}\n' + POOLS

# The manifest of the design document, with "off" in quotes as kubectl needs it.
FULL = """
apiVersion: proa.dev/v1alpha1
kind: DisaggregatedService
metadata: {name: deepseek-v3, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  topology:    Disaggregated
  model:       {uri: "hf://deepseek-ai/DeepSeek-V3", name: deepseek-v3, dtype: fp8,
                cache: {storageClass: "", size: 800Gi}, tokenSecretRef: {name: hf, key: token}}
  engine:      {type: vllm, image: "rocm/vllm@sha256:00", args: [], env: []}
  accelerator: {product: MI300X, partition: SPX, resourceName: amd.com/gpu, gpusPerPod: 8}
  pools:
    prefill: {replicas: 2, nodesPerGroup: 1, parallelism: {tp: 1, dp: 8, ep: 8},
              overlap: {twoBatch: auto, prefillDelayer: auto, farskip: "off"}}
    decode:  {replicas: 1, nodesPerGroup: 2, parallelism: {tp: 1, dp: 16, ep: 16},
              speculative: {mtp: 1}, podTemplate: {}}
  kvTransfer:  {backend: auto, leaseSeconds: 30, failurePolicy: recompute}
  slo:         {ttftMs: 500, itlMs: 40, percentile: 95}
  autoscaling: {mode: Active, prefill: {min: 1, max: 8}, decode: {min: 1, max: 4},
                ratio: {min: "1:4", max: 4:1}, maxGPUs: 64,
                behavior: {periodSeconds: 15, upWindowSeconds: 30, downWindowSeconds: 300, pinSeconds: 600}}
  rollout:     {maxSurgeGroups: 1, maxUnavailableGroups: 0, noProgressSeconds: 1800, onFailure: Rollback,
                analysis: {maxErrorRate: "0.02", maxTTFTRatio: "1.5"}}
  drain:       {timeoutSeconds: 600}
  health:      {stallSeconds: 60}
  gateway:     {replicas: 2, port: 8000, tls: {}, apiKeySecretRef: {}, httpRoute: {}, toolParser: "",
                reasoningParser: "", args: []}
  security:    {profile: Restricted, networkPolicy: Strict, mtls: false}
  placement:   {requireLabels: {}, tolerations: [], topologyKey: "", networks: []}
status: {}
"""

BAD = [
    pytest.param("a: [1", ":1:6: is not valid YAML: expected ',' or ']', but got '<stream end>'", id="syntax"),
    pytest.param("a: 1\na: 2", ":2:1: is not valid YAML: the key a is given twice", id="duplicate key"),
    pytest.param("", ": holds 0 YAML documents; keep exactly one DisaggregatedService in it", id="empty"),
    pytest.param(f"{HEAD}{SPEC}---\n{HEAD}{SPEC}", ": holds 2 YAML documents; keep exactly one", id="two documents"),
    pytest.param(
        "kind: PerformanceProfile\n---\nkind: PerformanceProfile",
        ": holds 0 YAML documents besides its PerformanceProfile; keep exactly one DisaggregatedService in it",
        id="two profiles",
    ),
    pytest.param("- 1", ": is not a manifest; it must start with apiVersion: proa.dev/v1alpha1", id="list"),
    pytest.param("kind: Pod", ": apiVersion is missing; set it to proa.dev/v1alpha1", id="no version"),
    pytest.param("apiVersion: v1\nkind: Pod", ": apiVersion is 'v1'; set it to proa.dev/v1alpha1", id="version"),
    pytest.param(
        "apiVersion: proa.dev/v1alpha1\nkind: Pod", ": kind is 'Pod'; set it to DisaggregatedService", id="kind"
    ),
    pytest.param(HEAD, ": spec: is missing; add it", id="no spec"),
    pytest.param(f"{HEAD}spec:\n{POOLS}", ": spec.model: is missing; add it", id="no model"),
    pytest.param(
        f"{HEAD}{SPEC}  toplogy: x", ": spec.toplogy: is not a field; check its spelling and indentation", id="typo"
    ),
    pytest.param(
        f"{HEAD}{SPEC}  topology: disaggregated",
        ": spec.topology: is 'disaggregated'; use 'Disaggregated' or 'Aggregated'",
        id="enum",
    ),
    pytest.param(
        f"{HEAD}{SPEC.replace('prefill: {}', 'prefill: {overlap: {twoBatch: off}}')}",
        ': spec.pools.prefill.overlap.twoBatch: YAML reads on and off without quotes as booleans; write "off"',
        id="unquoted off",
    ),
    pytest.param(
        f'{HEAD}{SPEC}  drain: {{timeoutSeconds: "60"}}',
        ': spec.drain.timeoutSeconds: is "60"; it should be a valid integer',
        id="text for a number",
    ),
    pytest.param(
        f"{HEAD}{SPEC}  drain: {{timeoutSeconds: 0}}",
        ": spec.drain.timeoutSeconds: is 0; it should be greater than or equal to 1",
        id="range",
    ),
    pytest.param(
        f"{HEAD}{SPEC}  rollout: {{analysis: {{maxErrorRate: 0.02}}}}",
        ': spec.rollout.analysis.maxErrorRate: is a number to YAML; write it in quotes, such as "0.02"',
        id="number for text",
    ),
    pytest.param(
        f'{HEAD}{SPEC}  rollout: {{analysis: {{maxErrorRate: "2%"}}}}',
        ": spec.rollout.analysis.maxErrorRate: is '2%', which does not match",
        id="pattern",
    ),
    pytest.param(
        f"{HEAD}{SPEC}  engine: {{args: [1]}}", ": spec.engine.args[0]: is a number to YAML; write it", id="array item"
    ),
    pytest.param(
        f"{HEAD}{SPEC}  kvTransfer: {{backend: shm}}", ": spec.kvTransfer.backend: shm moves KV blocks", id="a rule"
    ),
]


def test_profiles_beside_the_service(tmp_path: Path) -> None:
    profile = "apiVersion: proa.dev/v1alpha1\nkind: PerformanceProfile\nmetadata: {name: p}\n"
    path = tmp_path / "service.yaml"
    for text in (f"{HEAD}{SPEC}---\n{profile}", f"{profile}---\n{HEAD}{SPEC}---\n{profile}"):
        path.write_text(text)
        assert load(path).metadata.name == "x"
    path.write_text(profile)
    with pytest.raises(ManifestError, match="kind is 'PerformanceProfile'; set it to DisaggregatedService"):
        load(path)


@pytest.mark.parametrize(("text", "line"), BAD)
def test_bad_manifest_is_one_line_with_the_fix(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ManifestError) as caught:
        load(file)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{file}{line}")


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"{HEAD}{SPEC}  a: 1\n  b: 2\n")
    with pytest.raises(ManifestError) as caught:
        load(file)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["spec.a", "spec.b"]


@pytest.mark.parametrize(
    ("name", "make", "problem"),
    [
        ("absent", lambda path: None, "no such file"),
        ("folder", lambda path: path.mkdir(), "is a folder"),
        ("binary", lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not UTF-8 text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unreadable_file(tmp_path: Path, name: str, make: object, problem: str) -> None:
    assert callable(make)
    make(tmp_path / name)
    with pytest.raises(ManifestError, match=problem):
        load(tmp_path / name)


def test_shm_is_allowed_on_one_machine(tmp_path: Path) -> None:
    file = tmp_path / "local.yaml"
    file.write_text(f"{HEAD}{SPEC}  kvTransfer: {{backend: shm}}")
    assert load(file, is_local=True).spec.kv_transfer.backend == "shm"


def test_every_field_of_the_design_is_read(tmp_path: Path) -> None:
    file = tmp_path / "full.yaml"
    file.write_text(FULL)
    spec = load(file).spec
    assert (spec.autoscaling.max_gpus, spec.rollout.analysis.max_ttft_ratio) == (64, "1.5")
    assert spec.autoscaling.ratio.max == "4:1"  # base 60 in YAML 1.1, text to kubectl and here
    assert spec.pools.decode.parallelism.dp == 16


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_valid(file: Path) -> None:
    assert load(file).metadata.name


def test_the_promised_examples_are_there() -> None:
    stems = {path.stem for path in EXAMPLES}
    models, gpus = ("deepseek-v3", "qwen3-235b", "mixtral-8x7b"), ("mi300x", "mi355x")
    assert {"tiny", "sim"} | {f"{model}-{gpu}" for model in models for gpu in gpus} <= stems
