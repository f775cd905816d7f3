"""Real gateway, workers and operator: a stream outlives an upgrade, and a pod that cannot transfer gets nothing."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from proa_operator import names

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from testbed.settings import BedSettings
from tests.cluster.kinds import apply_kinds
from tests.cluster.live_api import RawApi, Watches
from tests.cluster.live_fleet import addressed_nodes
from tests.cluster.live_kubelet import UNREADY, RealProcesses, gateway_role, load_of
from tests.cluster.operator_checks import await_settled
from tests.cluster.operator_process import Operator

TINY = Path(__file__).parents[2] / "examples" / "models" / "tiny-moe"
NUM_TOKENS = 4096
STREAM_SECONDS = 240.0
SETTLE_SECONDS = 120.0


@pytest.fixture(scope="module")
def api() -> Iterator[ControlPlane]:
    with ControlPlane(BedSettings(lease_seconds=200, node_grace_seconds=600)) as bed:
        apply_kinds(bed)
        raw = RawApi(bed)
        for node in addressed_nodes("stream-0", first=249):
            raw.call("POST", raw.path("Node"), node)
        yield bed


@contextmanager
def cluster(api: ControlPlane, namespace: str, logs: Path) -> Iterator[RealProcesses]:
    """The operator and what plays its pods."""
    api.apply(gateway_role(namespace))
    with RealProcesses(api, namespace, logs, long_model(logs)) as real:
        watches = Watches(RawApi(api), namespace, ("Pod",), real.see)
        with watches, Operator(api, namespace):
            yield real


def long_model(folder: Path) -> Path:
    """tiny-moe for more tokens than it was made for: the sim engine takes only its configuration and its tokenizer."""
    model = folder / "tiny-moe"
    shutil.copytree(TINY, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4 * NUM_TOKENS}))
    return model


def slow_steps(folder: Path) -> tuple[str, ...]:
    """Flags for a stream of half a minute, twice what a rollout takes on two busy cores."""
    (folder / "cost.yaml").write_text("provenance: 'simulated: slow'\nstep_base_seconds: 0.008\n")
    return "--sim-profile", str(folder / "cost.yaml")


def service(*, decode: int = 1, args: tuple[str, ...] = ()) -> Document:
    pool = {"podTemplate": {"metadata": {"annotations": {UNREADY: "true"}}}}
    return {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"uri": "bundled://tiny-moe", "name": "m"},
            "engine": {"type": "sim", "args": list(args)},
            "pools": {"prefill": {"replicas": 1, **pool}, "decode": {"replicas": decode, **pool}},
            "kvTransfer": {"leaseSeconds": 10},
            "drain": {"timeoutSeconds": 300},
            "gateway": {"replicas": 1},
        },
    }


def ask(url: str, *, tokens: int, seconds: float) -> tuple[int, int]:
    """HTTP status and number of output tokens of a streamed answer; (0, 0) while nobody listens."""
    body: dict[str, Any] = {"model": "m", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    body |= {"messages": [{"role": "user", "content": "hello"}], "stream_options": {"include_usage": True}}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    count = 0
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            for line in answer:
                if line.startswith(b"data: {") and (usage := json.loads(line[6:]).get("usage")):
                    count = usage["completion_tokens"]
            return int(answer.status), count
    except urllib.error.HTTPError as error:
        return error.code, 0
    except OSError:
        return 0, 0


def leaders(api: ControlPlane, namespace: str) -> dict[str, Document]:
    found = api.get("pods", namespace=namespace, selector="proa.dev/group")["items"]
    return {pod["metadata"]["name"]: pod for pod in found}


def test_a_stream_of_4096_tokens_survives_an_upgrade(api: ControlPlane, namespace: str, tmp_path: Path) -> None:
    with cluster(api, namespace, tmp_path) as real, ThreadPoolExecutor(2) as threads:
        slow = slow_steps(tmp_path)
        api.apply(service(args=slow), f"--namespace={namespace}")
        await_settled(api, namespace, seconds=SETTLE_SECONDS)
        api.until(lambda: ask(real.url, tokens=1, seconds=20)[0] == 200, what="an answer", seconds=60)
        old = leaders(api, namespace)
        (decode,) = (pod["status"]["podIP"] for name, pod in old.items() if "-decode-" in name)
        stream: Future[tuple[int, int]] = threads.submit(ask, real.url, tokens=NUM_TOKENS, seconds=STREAM_SECONDS)
        api.until(lambda: (load := load_of(decode)) and load.running, what="the stream to run")
        is_over = threading.Event()
        others = threads.submit(_short_requests, real.url, is_over)
        api.apply(service(args=(*slow, "--max-num-seqs", "100")), f"--namespace={namespace}")
        api.until(lambda: set(leaders(api, namespace)) - set(old), what="groups of the new revision", seconds=60)

        def drains() -> bool:
            return any(_route_reason(pod) == "Cordoned" for name, pod in leaders(api, namespace).items() if name in old)

        api.until(drains, what="an old group to be drained", seconds=SETTLE_SECONDS)
        assert not stream.done(), "the stream is too short to say anything: raise its number of tokens"
        assert stream.result(STREAM_SECONDS) == (200, NUM_TOKENS)
        await_settled(api, namespace, seconds=SETTLE_SECONDS)
        is_over.set()
        statuses = others.result(60)
        assert not set(leaders(api, namespace)) & set(old)
        print(f"{len(statuses)} short requests meanwhile")
        assert set(statuses) == {200}


def _short_requests(url: str, is_over: threading.Event) -> list[int]:
    found = []
    while not is_over.wait(0.5):
        found.append(ask(url, tokens=4, seconds=60)[0])
    return found


def _route_reason(pod: Document) -> str:
    held = pod.get("status", {}).get("conditions", ())
    return next((str(one["reason"]) for one in held if one["type"] == names.ROUTABLE_CONDITION), "")


def test_a_pod_whose_probe_transfer_fails_gets_no_request(api: ControlPlane, namespace: str, tmp_path: Path) -> None:
    with cluster(api, namespace, tmp_path) as real:
        api.apply(service(), f"--namespace={namespace}")
        await_settled(api, namespace, seconds=SETTLE_SECONDS)
        (good,) = (name for name in leaders(api, namespace) if "-decode-" in name)
        bad = good.replace("-decode-000-", "-decode-001-")
        real.flags[bad] = {"--kv-port": "50062", "--kv-data-port": "50063"}
        api.apply(service(decode=2), f"--namespace={namespace}")

        def has_failed() -> bool:
            pod = leaders(api, namespace).get(bad)
            return pod is not None and _route_reason(pod) == "ProbeFailed"

        api.until(has_failed, what="the probe to fail", seconds=SETTLE_SECONDS)
        api.until(lambda: ask(real.url, tokens=1, seconds=20)[0] == 200, what="an answer", seconds=60)
        time.sleep(8.0)  # the gateway would have taken the pod by now
        assert {ask(real.url, tokens=2, seconds=60)[0] for _ in range(30)} == {200}
        finished = {name: _finished(pod) for name, pod in leaders(api, namespace).items()}
        assert finished[good] >= 30
        assert finished[bad] == 0


def _finished(pod: Document) -> int:
    found = load_of(pod["status"]["podIP"])
    assert found is not None
    return found.finished_total
