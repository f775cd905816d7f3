"""The operator's rights against the API server's audit log: nothing is refused, and no granted right is idle."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testbed.audit import AuditEvent
from testbed.control_plane import ControlPlane
from testbed.errors import BedError
from tests.cluster.kinds import apply_kinds, foreign_kind, is_listed

ROOT = Path(__file__).parents[2]
CHART = str(ROOT / "charts" / "proa")
FOREIGN = {"PodMonitor": "monitoring.coreos.com", "HTTPRoute": "gateway.networking.k8s.io"}
FOR_EVERYBODY = {("create", "authorization.k8s.io", "selfsubjectaccessreviews"), ("get", "", "")}
Right = tuple[str, str, str]
"""Verb, API group, resource."""


def _service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Nothing answers in played pods, so drains end by their timeout: it is short."""
    usual: dict[str, Any] = {
        "model": {"uri": "bundled://tiny-moe", "name": name},
        "engine": {"type": "sim"},
        "kvTransfer": {"leaseSeconds": 1},
        "drain": {"timeoutSeconds": 1},
        "pools": {"prefill": {}, "decode": {}},
    }
    return {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": name},
        "spec": usual | spec,
    }


def _granted(api: ControlPlane, namespace: str) -> set[Right]:
    """What the roles of release `proa` allow."""
    roles = [api.get("clusterrole", f"proa-{namespace}")]
    roles += [api.get("role", name, namespace) for name in (f"proa-{namespace}", "proa-leader")]
    return {
        (verb, group, resource)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _used(events: list[AuditEvent], user: str) -> tuple[set[Right], list[str]]:
    """Rights that the user's requests needed, and those requests that were forbidden."""
    used: set[Right] = set()
    forbidden = []
    for event in (event for event in events if event.user == user):
        used.add((event.verb, event.group, event.resource))
        if event.verb == "patch" and event.code == 201:
            used.add(("create", event.group, event.resource))
        if event.code == 403:
            forbidden.append(f"{event.verb} {event.group}/{event.resource} {event.namespace}/{event.name}")
    return used - FOR_EVERYBODY, forbidden


@contextmanager
def _operator(api: ControlPlane, namespace: str, log: Path) -> Iterator[None]:
    """The operator's process with the rights and the settings that the chart gives to its pods."""
    container = api.get("deployment", "proa", namespace)["spec"]["template"]["spec"]["containers"][0]
    settings = {one["name"]: one.get("value", "") for one in container["env"] if one["name"].startswith("PROA_")}
    settings |= {"PROA_POD_NAME": "proa-0", "PROA_OPERATOR_NAMESPACE": namespace}
    settings |= {"PROA_HEALTH_PORT": "0", "PROA_METRICS_PORT": "0", "PROA_LOG_FORMAT": "text"}
    account = {"KUBECONFIG": str(api.service_account_kubeconfig(namespace, "proa"))}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROA_")}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "proa_operator.main"],
            env={**inherited, **settings, **account},
            stdout=output,
            stderr=output,
        )
        try:
            yield
        except BedError as error:
            raise BedError(f"{error}; the operator's last words:\n{log.read_text()[-2000:]}") from None
        finally:
            process.terminate()
            process.wait(timeout=30)


class Story:
    """What users do to services, in a namespace, with waits for what the operator does about it."""

    def __init__(self, api: ControlPlane, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def apply(self, name: str, **spec: Any) -> None:
        document = _service(name, spec)
        document["metadata"]["namespace"] = self.namespace
        self.api.apply(document)

    def names(self, kind: str) -> list[str]:
        found = self.api.kubectl("get", kind, f"--namespace={self.namespace}", "--output=name")
        return [line.partition("/")[2] for line in found.splitlines()]

    def await_names(self, kind: str, pattern: str, count: int) -> None:
        """Until so many objects of a kind have names that start with `pattern`."""
        self.api.until(
            lambda: sum(re.match(pattern, name) is not None for name in self.names(kind)) == count,
            what=f"{count} {kind} {pattern}",
            seconds=60,
        )

    def children_of_every_kind(self) -> None:
        self.apply("one", gateway={"httpRoute": {"gateway": "front"}})
        self.apply("hub", model={"uri": "hf://org/model", "name": "hub"})
        self.apply("wide", pools={"prefill": {}, "decode": {"nodesPerGroup": 2}})
        for kind, words in (("httproute", "one"), ("podmonitor", "one"), ("job", "hub"), ("pvc", "hub")):
            self.api.until(lambda kind=kind, words=words: words in str(self.names(kind)), what=f"a {kind}", seconds=60)
        self.await_names("statefulset", "one-", 2)
        self.await_names("pod", "wide-.*-decode-", 2)

    def groups_come_and_go(self) -> None:
        self.api.kubectl("scale", "wpool/one-decode", "--replicas=2", f"--namespace={self.namespace}")
        self.await_names("statefulset", "one-", 3)
        self.api.kubectl("scale", "wpool/one-decode", "--replicas=1", f"--namespace={self.namespace}")
        self.await_names("statefulset", "one-", 2)

    def a_pod_of_a_group_is_lost(self) -> None:
        first, second = (name for name in self.names("pod") if name.startswith("wide-") and "-decode-" in name)
        uid = self.api.get("pod", second, self.namespace)["metadata"]["uid"]
        self.api.kubectl("delete", "pod", first, f"--namespace={self.namespace}", "--wait=false")
        self.api.until(
            lambda: self.api.get("pod", second, self.namespace)["metadata"]["uid"] != uid,
            what="the restart of the whole group",
            seconds=60,
        )

    def there_and_back(self) -> None:
        for args in (["--seed", "1"], []):
            self.apply("one", engine={"type": "sim", "args": args})
            self.await_names("statefulset", "one-", 2)
            # Both groups of this revision: the pods say which arguments they run with.
            self.api.until(lambda args=args: self._runs(args), what=f"groups with {args}", seconds=60)

    def _runs(self, args: list[str]) -> bool:
        groups = self.api.get("statefulset", namespace=self.namespace, selector="proa.dev/service=one")["items"]
        commands = [one["spec"]["template"]["spec"]["containers"][0]["args"] for one in groups]
        return len(commands) == 2 and all(("--seed" in command) == bool(args) for command in commands)

    def many_revisions(self) -> None:
        first = next(name for name in self.names("controllerrevision") if name.startswith("one-") and len(name) == 12)
        for number in range(7):
            self.apply("one", engine={"type": "sim", "env": [{"name": "N", "value": str(number)}]})
            self.await_names("statefulset", "one-", 2)
        self.api.until(lambda: first not in self.names("controllerrevision"), what="the end of an old revision")

    def one_pool_less(self) -> None:
        self.apply("hub", topology="Aggregated", pools={"decode": {}})
        self.await_names("workerpool", "hub-", 1)


@pytest.fixture(scope="module")
def cluster(api: ControlPlane) -> Iterator[ControlPlane]:
    """With the foreign kinds as long as this test runs: others want to see what is refused without them."""
    apply_kinds(api)
    for kind, group in FOREIGN.items():
        api.apply(foreign_kind(kind, group))
        # Established comes before the discovery document, and that is what the operator reads, once, at its start.
        api.until(partial(is_listed, api, kind, group), what=f"the kind {kind}", seconds=90)
    api.nodes.add("rights-1", "rights-2", "rights-3")
    yield api
    api.kubectl("delete", "crd", *(f"{kind.lower()}s.{group}" for kind, group in FOREIGN.items()))


def test_no_right_is_missing_and_none_is_idle(cluster: ControlPlane, namespace: str, tmp_path: Path) -> None:
    spaces = ("--set-json", f"watchNamespaces={json.dumps([namespace])}")
    cluster.helm("install", "proa", CHART, f"--namespace={namespace}", *spaces, "--set=replicas=1")
    story = Story(cluster, namespace)
    log = tmp_path / "operator.log"
    with _operator(cluster, namespace, log):
        story.children_of_every_kind()
        story.groups_come_and_go()
        story.there_and_back()
    with _operator(cluster, namespace, log):  # a replica that takes over says the same again: it counts the event on
        story.there_and_back()
        story.a_pod_of_a_group_is_lost()
        story.many_revisions()
        story.one_pool_less()
    used, forbidden = _used(cluster.audit(), f"system:serviceaccount:{namespace}:proa")
    assert forbidden == [], log.read_text()[-2000:]
    granted = _granted(cluster, namespace)
    assert sorted(granted - used) == []
    assert sorted(used - granted) == []


def test_a_refused_request_and_a_foreign_one_are_told_apart() -> None:
    def event(user: str, verb: str, code: int) -> AuditEvent:
        what = {"group": "", "resource": "pods", "namespace": "x", "name": "y"}
        return AuditEvent(user=user, verb=verb, code=code, received="", user_agent="", **what)

    used, forbidden = _used([event("a", "patch", 201), event("a", "delete", 403), event("b", "get", 200)], "a")
    assert used == {("patch", "", "pods"), ("create", "", "pods"), ("delete", "", "pods")}
    assert forbidden == ["delete /pods x/y"]
