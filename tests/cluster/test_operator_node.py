"""An installation on the real node: helm, an answer, a killed worker, upgrade and rollback under load, nothing left."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from proa_operator.cli.ask import ask
from proa_operator.errors import ServeError
from proa_operator.names import COMPONENT_LABEL

from testbed.images.images import OPERATOR
from testbed.node.node import NodeCluster
from tests.cluster.gateway_load import GatewayLoad
from tests.cluster.operator_checks import await_settled, children, objects

ROOT = Path(__file__).parents[2]
CHARTS, VALUES = ROOT / "charts", ROOT / "testbed" / "values.yaml"
SYSTEM, TEAM = "story-system", "story"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
NEXT_IMAGE = f"{OPERATOR.rpartition(':')[0]}:next"
START_SECONDS = 180.0
SERVICE = {
    "apiVersion": "proa.dev/v1alpha1",
    "kind": "DisaggregatedService",
    "metadata": {"name": "tiny", "namespace": TEAM},
    "spec": {
        "topology": "Disaggregated",
        "model": {"uri": "bundled://tiny-moe", "name": "tiny-moe"},
        "engine": {"type": "sim"},
        "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}},
        "kvTransfer": {"leaseSeconds": 5},
        "drain": {"timeoutSeconds": 30},
        "gateway": {"replicas": 1, "port": 8000},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The installation, what the cluster held before it, and the gateway's Service."""

    bed: NodeCluster
    before: frozenset[str]
    url: str

    def helm(self, *words: str) -> str:
        """Of the operator's release."""
        return self.bed.helm(*words[:1], "proa", *words[1:], f"--namespace={SYSTEM}", "--wait", "--timeout=3m")

    def answers(self) -> bool:
        """Whether a question gets its answer through the gateway's Service now."""
        try:
            return bool(asyncio.run(ask(self.url, "tiny-moe", "What is a proa?", lambda text: None)).text)
        except ServeError:
            return False

    def pods(self, component: str) -> dict[str, str]:
        """Uid by name of the service's pods that stay."""
        found = self.bed.get("pods", namespace=TEAM, selector=f"{COMPONENT_LABEL}={component}")["items"]
        staying = (pod["metadata"] for pod in found if "deletionTimestamp" not in pod["metadata"])
        return {meta["name"]: meta["uid"] for meta in staying}


@pytest.fixture(scope="module")
def story(node_cluster: NodeCluster) -> Iterator[Story]:
    """Both charts and a served model, in namespaces that take only pods of the restricted level."""
    bed = node_cluster
    for name in (SYSTEM, TEAM):
        bed.kubectl("create", "namespace", name)
        bed.kubectl("label", "namespace", name, RESTRICTED)
    place = (f"--namespace={SYSTEM}", "--wait", "--timeout=3m")
    bed.helm("upgrade", "--install", "proa-crds", str(CHARTS / "proa-crds"), "--take-ownership", *place)
    before = objects(bed, SYSTEM, TEAM)
    bed.helm("install", "proa", str(CHARTS / "proa"), f"--values={VALUES}", *place)
    bed.apply(SERVICE)
    await_settled(bed, TEAM, seconds=START_SECONDS)
    service = bed.get("service", "tiny-gateway", TEAM)["spec"]
    yield Story(bed=bed, before=before, url=f"http://{service['clusterIP']}:{service['ports'][0]['port']}")
    bed.helm("uninstall", "proa", f"--namespace={SYSTEM}", "--ignore-not-found")
    bed.kubectl("delete", "namespace", SYSTEM, TEAM, "--wait=false")


def test_curl_gets_an_answer_through_the_gateways_service(story: Story) -> None:
    body = {"model": "tiny-moe", "messages": [{"role": "user", "content": "What is a proa?"}], "max_tokens": 8}
    flags = ("--silent", "--show-error", "--fail-with-body", "--max-time", "60", "--noproxy", "*")
    header = ("--header", "content-type: application/json", "--data", json.dumps(body))
    done = subprocess.run(
        ["curl", *flags, *header, f"{story.url}/v1/chat/completions"],
        capture_output=True,
        text=True,
        timeout=70,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_no_pod_needs_more_than_the_restricted_level(story: Story) -> None:
    """The API server judges the pods that are there when a namespace's level is raised, and warns."""
    for name in (SYSTEM, TEAM):
        label = ("label", "namespace", name, "--overwrite", "--dry-run=server", RESTRICTED)
        done = story.bed.tried("kubectl", *label)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_killed_worker_comes_back_and_serves(story: Story, role: str) -> None:
    (victim,) = (name for name in story.pods("worker") if f"-{role}-" in name)
    uid = story.pods("worker")[victim]
    story.bed.kubectl("delete", "pod", victim, f"--namespace={TEAM}", "--grace-period=0", "--force")
    story.bed.until(lambda: story.pods("worker").get(victim, uid) != uid, what=f"another {victim}", seconds=60)
    ready = ("wait", f"pod/{victim}", f"--namespace={TEAM}", "--for=condition=Ready", f"--timeout={START_SECONDS:g}s")
    story.bed.kubectl(*ready, seconds=START_SECONDS + 10)
    await_settled(story.bed, TEAM, seconds=START_SECONDS)
    story.bed.until(story.answers, what="an answer", seconds=60)


def test_upgrade_and_rollback_of_the_chart_lose_no_request(story: Story) -> None:
    story.bed.containerd.tag(OPERATOR, NEXT_IMAGE)
    workers = story.pods("worker")
    with GatewayLoad(story.url, "tiny-moe") as load:
        _change(story, load, "upgrade", str(CHARTS / "proa"), f"--values={VALUES}", "--set=image.tag=next")
        _change(story, load, "rollback")
    assert load.failures == []
    print(f"{load.answered} answers during an upgrade and a rollback")
    assert story.pods("worker") == workers, "an upgrade of the operator alone rolls no worker"


def _change(story: Story, load: GatewayLoad, *words: str) -> None:
    """helm, another gateway in the place of the old one, and answers from it."""
    old, answered = story.pods("gateway"), load.answered
    story.helm(*words)
    story.bed.until(
        lambda: story.pods("gateway") and not story.pods("gateway").keys() & old.keys(),
        what="another gateway",
        seconds=START_SECONDS,
    )
    story.bed.until(lambda: load.answered > answered + 4, what="answers after it", seconds=60)


def test_uninstalling_leaves_nothing_but_the_kinds(story: Story) -> None:
    story.bed.kubectl("delete", "disaggregatedservice", "tiny", f"--namespace={TEAM}", "--timeout=60s", seconds=70)
    story.bed.until(lambda: not children(story.bed, TEAM), what="the service's objects to be gone", seconds=120)
    story.helm("uninstall")

    def left() -> frozenset[str]:
        return objects(story.bed, SYSTEM, TEAM) - story.before

    story.bed.until(lambda: not left(), what=f"nothing to be left but {sorted(left())}", seconds=60)
