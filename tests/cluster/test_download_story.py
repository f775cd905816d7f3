"""A model from a hub, in a cluster: the Job's own command as a process, killed and resumed, and what follows from it.

kwok plays the pods, so the test runs what the Job's pod would run, and says how that ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from tests.cluster.operator_checks import await_settled, service
from tests.cluster.operator_process import Doubles, Operator, sim_service
from tests.unit.download_double import NEEDED_BYTES, WEIGHTS, Double, Fault, is_whole, served

SECONDS = 300
NODES = ("life-0", "life-1")
pytestmark = pytest.mark.timeout(1200)
MODEL = {"uri": "hf://org/model", "name": "tiny-moe", "cache": {"size": "1Gi"}}


@pytest.fixture
def hub() -> Iterator[Double]:
    with served() as double:
        yield double


class Story:
    """One service whose model is downloaded; `start` runs the container of its Job on a folder of this machine."""

    def __init__(self, api: ControlPlane, namespace: str, folder: Path) -> None:
        self.api, self.namespace, self.target = api, namespace, folder / "checkpoint"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *more: str) -> subprocess.Popen[str]:
        """The claim is mounted at the folder above the target."""
        (container,) = self.job()["spec"]["template"]["spec"]["containers"]
        assert container["command"][0] == "python"
        args = [str(self.target) if word == "/models/checkpoint" else word for word in container["args"]]
        args[args.index("--progress-port") + 1] = "0"
        given = {item["name"]: item["value"] for item in container["env"] if "value" in item}
        command = [sys.executable, *container["command"][1:], *args, "--retry-seconds", "0.01", *more]
        environment = {"PATH": os.environ["PATH"], **given}
        self.processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        return self.processes[-1]

    def jobs(self) -> list[Document]:
        found: list[Document] = self.api.get("jobs", namespace=self.namespace)["items"]
        return found

    def job(self) -> Document:
        found: Document = self.api.until(
            lambda: next(iter(self.jobs()), None), what="the download's Job", seconds=SECONDS
        )
        return found

    def end(self, exit_code: int, message: str = "") -> None:
        """As the kubelet reports the end of the Job's pod. kwok would have ended it at once on a node."""
        selector = f"batch.kubernetes.io/job-name={self.job()['metadata']['name']}"
        pod = self.api.until(lambda: next(iter(self.pods(selector)), None), what="the Job's pod", seconds=SECONDS)
        how = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed", "message": message}
        state = {"name": "download", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
        status = {
            "phase": "Failed" if exit_code else "Succeeded",
            "containerStatuses": [{**state, "state": {"terminated": how}}],
        }
        words = ("patch", "pod", pod["metadata"]["name"], f"--namespace={self.namespace}", "--subresource=status")
        self.api.kubectl(*words, "--type=merge", f"--patch={json.dumps({'status': status})}")
        self.api.kubectl("uncordon", *NODES)

    def pods(self, selector: str) -> list[Document]:
        found: list[Document] = self.api.get("pods", namespace=self.namespace, selector=selector)["items"]
        return found

    def workers(self) -> list[Document]:
        return self.pods("app.kubernetes.io/component=worker")

    def ready(self) -> Document:
        conditions = service(self.api, self.namespace).get("status", {}).get("conditions", [])
        found: Document = next((one for one in conditions if one["type"] == "ModelReady"), {})
        return found


@pytest.fixture
def story(api: ControlPlane, namespace: str, doubles: Doubles, hub: Double, tmp_path: Path) -> Iterator[Story]:
    told = Story(api, namespace, tmp_path)
    api.kubectl("cordon", *NODES)
    net = json.dumps({"HF_ENDPOINT": hub.url})
    with Operator(api, namespace, PROA_DOWNLOAD_ENV=net):
        api.apply(sim_service(doubles, model=MODEL), f"--namespace={namespace}")
        yield told
    for process in told.processes:  # of a test that failed
        process.kill()
        process.communicate(timeout=SECONDS)
    api.kubectl("uncordon", *NODES)


def test_a_killed_download_goes_on_and_the_second_replica_downloads_nothing(story: Story, hub: Double) -> None:
    hub.plan(WEIGHTS, Fault(hold_after=len(hub.files[WEIGHTS]) // 2))
    first = story.start("--parallel", "1", "--lock-stale-seconds", "1")
    assert hub.held.wait(SECONDS)
    story.api.until(lambda: story.ready().get("status") == "False", what="a model that is not ready", seconds=SECONDS)
    story.api.until(lambda: len(story.workers()) == 2, what="two workers", seconds=SECONDS)
    assert all(pod["spec"]["schedulingGates"] for pod in story.workers())
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=SECONDS)
    hub.release.set()
    second = story.start("--lock-stale-seconds", "1")
    assert (second.communicate(timeout=SECONDS), second.returncode)[1] == 0
    assert is_whole(story.target)
    assert hub.file_bytes == NEEDED_BYTES
    story.end(0)
    await_settled(story.api, story.namespace)
    asked = len(hub.seen)
    story.api.kubectl("scale", "workerpool", "tiny-decode", f"--namespace={story.namespace}", "--replicas=2")
    story.api.until(lambda: sum(map(_is_ready, story.workers())) == 3, what="the second decode worker", seconds=SECONDS)
    assert len(story.jobs()) == 1
    for pod in story.workers():
        assert not pod["spec"].get("initContainers")
        (mount,) = (one for one in pod["spec"]["containers"][0]["volumeMounts"] if one["name"] == "model")
        assert mount == {"name": "model", "mountPath": "/models", "readOnly": True}
    again = story.start()  # what a Job that was made once more would do
    assert (again.communicate(timeout=SECONDS), again.returncode)[1] == 0
    assert (hub.file_bytes, len(hub.seen)) == (NEEDED_BYTES, asked)


def test_a_wrong_digest_is_refused_and_said_in_the_condition(story: Story, hub: Double) -> None:
    size = len(hub.files[WEIGHTS])
    hub.plan(WEIGHTS, *(Fault(content=b"x" * size) for _ in range(3)))
    process = story.start()
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert not story.target.exists()
    story.end(2, said.strip().splitlines()[-1])
    story.api.until(lambda: story.ready().get("reason") == "DownloadFailed", what="the condition", seconds=SECONDS)
    story.api.until(
        lambda: story.ready()["message"] == said.strip().splitlines()[-1],
        what="the download's own words",
        seconds=SECONDS,
    )
    assert "refused and removed" in story.ready()["message"]
    assert all(pod["spec"]["schedulingGates"] for pod in story.workers())


def _is_ready(pod: Document) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
