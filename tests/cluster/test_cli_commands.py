"""The commands against a real API server, with the real operator behind it and pods played by kwok."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.cluster import Cluster
from testbed.control_plane import ControlPlane
from tests.cluster.kinds import apply_kinds
from tests.cluster.operator_checks import await_settled
from tests.cluster.operator_process import Doubles, Operator, sim_service

NAMESPACE = "cli"
IN = f"--namespace={NAMESPACE}"
SECONDS = 120.0


def own_service(doubles: Doubles, name: str = "tiny") -> dict[str, Any]:
    """Its drains are short: once one has begun the double says so for all pods, and each next one waits it out."""
    return sim_service(doubles, name=name, drain={"timeoutSeconds": 14})


class Proa:
    """The command line, in the namespace of these tests."""

    def __init__(self, bed: Cluster) -> None:
        self._bed = bed

    def run(self, *words: object, kubeconfig: Path | None = None, namespace: str = NAMESPACE) -> Any:
        """The finished process, whatever its status."""
        argv = [sys.executable, "-m", "proa_operator.cli.main", *map(str, words), "--namespace", namespace]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig or self._bed.kubeconfig)}
        return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)

    @contextmanager
    def watched(self, *words: object) -> Iterator[subprocess.Popen[str]]:
        """A process with --watch, killed if it does not end by itself."""
        argv = [sys.executable, "-u", "-m", "proa_operator.cli.main", *map(str, words), "--watch", IN]
        environment = {**os.environ, "KUBECONFIG": str(self._bed.kubeconfig)}
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                yield process
            finally:
                process.kill()

    def read(self, *words: object) -> Any:
        """Its JSON; fails the test with stderr."""
        done = self.run(*words, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def doubles(api: ControlPlane) -> Iterator[Doubles]:
    apply_kinds(api)
    api.nodes.add("cli-0", "cli-1")
    api.kubectl("create", "namespace", NAMESPACE)
    with Doubles() as found:
        yield found


@pytest.fixture(scope="module")
def operator(api: ControlPlane, doubles: Doubles) -> Iterator[Operator]:
    with Operator(api, NAMESPACE) as found:
        api.apply(own_service(doubles), IN)
        await_settled(api, NAMESPACE)
        yield found
        api.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def proa(api: ControlPlane, operator: Operator) -> Proa:
    return Proa(api)


@pytest.fixture
def manifest(doubles: Doubles, tmp_path: Path) -> Path:
    """What is in the cluster."""
    return _write(tmp_path, own_service(doubles))


def _write(folder: Path, document: dict[str, Any], **spec: Any) -> Path:
    path = folder / "service.yaml"
    path.write_text(yaml.safe_dump({**document, "spec": {**document["spec"], **spec}}))
    return path


def test_status_of_one_and_of_all(proa: Proa) -> None:
    view = proa.read("status", "tiny")
    assert (view["phase"], view["prefill"], view["decode"], view["isCurrent"]) == ("Serving", "1/1", "1/1", True)
    assert {row["pool"]: row["routable"] for row in view["pools"]} == {"prefill": 1, "decode": 1}
    assert all(row["isGood"] for row in view["conditions"])
    assert [found["name"] for found in proa.read("status")] == ["tiny"]
    done = proa.run("status", "tiny")
    assert "CapacityAvailable" in done.stdout
    assert proa.run("status", namespace="default").stderr.startswith("no services here")


def test_a_service_at_rest_has_an_empty_plan(proa: Proa, manifest: Path) -> None:
    """With the operator's own settings but for where it was found: it runs outside of the cluster here."""
    applied = {row["target"] for row in proa.read("plan", "tiny")["actions"]}
    assert applied <= {"NetworkPolicy tiny-admin", "Deployment tiny-gateway"}
    assert {row["target"] for row in proa.read("plan", manifest)["actions"]} == applied


def test_the_plan_of_a_changed_and_of_a_new_manifest(proa: Proa, doubles: Doubles, tmp_path: Path) -> None:
    changed = proa.read("plan", _write(tmp_path, own_service(doubles), engine={"type": "sim", "args": ["--seed", "1"]}))
    assert changed["actions"][0]["action"] == "StartRevision"
    assert changed["actions"][0]["detail"] == "as number 2"
    new = proa.read("plan", _write(tmp_path, own_service(doubles, name="other")))
    assert (new["state"], new["actions"][0]["detail"]) == ("New", "as number 1")
    assert sum(row["target"].startswith("StatefulSet other-") for row in new["actions"]) == 2


def test_a_diff_shows_what_changes_and_nothing_else(proa: Proa, doubles: Doubles, tmp_path: Path) -> None:
    document = own_service(doubles)
    own = ("NetworkPolicy tiny-admin", "Deployment tiny-gateway")  # as in the test of an empty plan

    def kinds(**spec: Any) -> list[tuple[str, str]]:
        found = proa.read("diff", _write(tmp_path, document, **spec))["differences"]
        return [(row["change"], row["kind"]) for row in found if f"{row['kind']} {row['name']}" not in own]

    assert kinds() == []
    assert kinds(slo={"ttftMs": 900}) == [("changed", "DisaggregatedService")]
    pools = {**document["spec"]["pools"], "decode": {**document["spec"]["pools"]["decode"], "replicas": 2}}
    assert kinds(pools=pools) == [
        ("changed", "DisaggregatedService"),
        ("changed", "WorkerPool"),
        ("added", "StatefulSet"),
    ]


def test_a_diff_of_a_new_revision_shows_one_group_of_each_pool(proa: Proa, doubles: Doubles, tmp_path: Path) -> None:
    path = _write(tmp_path, own_service(doubles), engine={"type": "sim", "args": ["--seed", "1"]})
    view = proa.read("diff", path)
    sets = [row for row in view["differences"] if row["kind"] == "StatefulSet"]
    assert [row["change"] for row in sets] == ["changed", "changed"]
    assert all("+        - --seed" in row["lines"] for row in sets)
    assert not any("apiVersion: v1" in line for row in sets for line in row["lines"])
    done = proa.run("diff", path, "--exit-code")
    assert (done.returncode, f"revision {view['replaces']} rolls to {view['revision']}" in done.stdout) == (1, True)


def test_restart_undo_and_drain(api: ControlPlane, proa: Proa) -> None:
    (first,) = proa.read("rollout", "status", "tiny")["revisions"]
    assert (first["number"], first["state"], first["groups"]) == (1, "Target", "prefill 1/1, decode 1/1")
    proa.read("rollout", "restart", "tiny")
    rows = api.until(lambda: _revisions(proa, 2), what="the second revision")
    assert [(row["number"], row["changed"]) for row in rows] == [(1, []), (2, [])]
    undone = proa.read("undo", "tiny", "--to", "1")
    assert (undone["revision"], undone["isSameRevision"]) == (first["revision"], True)
    done = proa.run("rollout", "tiny", "--wait", "--timeout", "110")
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in proa.read("rollout", "tiny")["revisions"]] == ["", "Target"]
    done = proa.run("drain", "tiny", "decode-000", "--wait", "--timeout", "110")
    assert (done.returncode, "decode-000 is gone" in done.stdout) == (0, True), done.stderr
    await_settled(api, NAMESPACE)


def _revisions(proa: Proa, number: int) -> Any:
    """All of them, once the operator has made that many."""
    rows = proa.read("rollout", "tiny")["revisions"]
    return rows if len(rows) == number else None


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("status", "nobody"), 2, "not found; `proa status -A`"),
        (("plan", "nobody"), 2, "no DisaggregatedService nobody in namespace cli"),
        (("rollout", "nobody"), 2, "not found"),
        (("undo", "tiny", "--to", "zzzz"), 2, "has no revision zzzz: it has"),
        (("drain", "tiny", "decode-999"), 2, "has no group decode-999: it has"),
        (("status", "--context", "nowhere"), 2, "no context 'nowhere'"),
        (("status", "--kubeconfig", "/no/such"), 2, "/no/such: no such file"),
        (("plan", "/no/such.yaml"), 2, "no such file"),
    ],
)
def test_mistakes_are_one_line(proa: Proa, words: tuple[str, ...], exit_code: int, message: str) -> None:
    done = proa.run(*words)
    assert (done.returncode, message in done.stderr, done.stderr.count("\n")) == (exit_code, True, 1), done.stderr


def test_no_answer_and_no_rights(api: ControlPlane, proa: Proa, tmp_path: Path) -> None:
    document = json.loads(api.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    dead = tmp_path / "dead"
    dead.write_text(json.dumps(document))
    done = proa.run("status", kubeconfig=dead)
    assert (done.returncode, "https://127.0.0.1:1 does not answer" in done.stderr) == (1, True), done.stderr
    api.until(lambda: api.get("serviceaccount", "default", NAMESPACE), what="the default service account")
    nobody = api.service_account_kubeconfig(NAMESPACE, "default")
    done = proa.run("status", kubeconfig=nobody)
    assert (done.returncode, "not allowed: " in done.stderr) == (1, True), done.stderr
    report = json.loads(proa.run("doctor", "cluster", "--output", "json", kubeconfig=nobody).stdout)["cluster"]
    levels = {finding["check"]: finding["level"] for finding in report}
    assert (levels["Kubernetes"], levels["Your rights"], levels["Device plugin"]) == ("ok", "warn", "skip")


def test_doctor_finds_the_cluster_in_order_but_for_the_operator(proa: Proa) -> None:
    """The operator of these tests has no Deployment, and there is no Prometheus."""
    done = proa.run("doctor", "cluster", "--output", "json")
    report = {finding["check"]: finding for finding in json.loads(done.stdout)["cluster"]}
    assert done.returncode == 1
    assert (report["CRDs"]["level"], report["Your rights"]["level"]) == ("ok", "ok")
    assert (report["Operator"]["level"], report["Prometheus"]["level"]) == ("fail", "warn")
    assert all(finding["fix"] for finding in report.values() if finding["level"] in ("warn", "fail"))


@pytest.mark.timeout(120)
def test_watch_prints_one_document_for_each_change_and_ends_with_an_interrupt(
    api: ControlPlane, proa: Proa, doubles: Doubles
) -> None:
    other = own_service(doubles, name="other")
    with proa.watched("status", "--output", "yaml") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert next(lines) == "---\n"
        api.apply(other, IN)
        assert next(line for line in lines if line == "  name: other\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    api.kubectl("delete", "disaggregatedservice", "other", IN, "--wait=false")
