"""Real workers and a real gateway for pods that kwok plays: each process has its pod's own address on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from proa_operator import names
from proa_operator.names import GATEWAY_PORTS, WORKER_PORTS, Component, Port
from proa_proto.v1 import worker_admin_pb2 as pb
from proa_proto.v1 import worker_admin_pb2_grpc as rpc

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from testbed.ports import free_ports
from tests.cluster.live_api import MERGE, RawApi, Seen

UNREADY = "testbed.proa.dev/unready"
STOP_SECONDS = 15.0


class RealProcesses:
    """`see` each event of a pod: its process starts with the pod and ends by SIGTERM when the pod is deleted."""

    def __init__(self, bed: ControlPlane, namespace: str, logs: Path, model: Path) -> None:
        """`model` is the checkpoint's folder. Pods have the annotation UNREADY, which goes when their worker serves."""
        self._model = str(model)
        self._bed, self._api, self._namespace, self._logs = bed, RawApi(bed), namespace, logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._starting: dict[str, tuple[str, str]] = {}
        self.flags: dict[str, dict[str, str]] = {}
        """By name of the pod: values of flags that differ from what was rendered."""
        self.url = ""
        """Of the gateway; empty until it was started."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._admit_all, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join(STOP_SECONDS)
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)

    def see(self, seen: Seen) -> None:
        """Under the lock of the watches."""
        meta = seen.body["metadata"]
        uid, labels = meta["uid"], meta["labels"]
        if seen.type == "DELETED" or "deletionTimestamp" in meta:
            self._starting.pop(uid, None)
            if uid in self._running:
                self._running[uid].terminate()
            return
        is_up = seen.body.get("status", {}).get("phase") == "Running" and seen.body["status"].get("podIP")
        if uid in self._running or not is_up:
            return
        if labels.get(names.COMPONENT_LABEL) == Component.GATEWAY:
            self._running[uid] = self._start_gateway(seen.body)
        elif names.ROLE_LABEL in labels:
            self._running[uid] = self._start_worker(seen.body)
            self._starting[uid] = (meta["name"], seen.body["status"]["podIP"])

    def _admit_all(self) -> None:
        while not self._is_over.wait(0.3):
            self._admit()

    def _admit(self) -> None:
        """Let those pods be ready whose workers serve by now."""
        for uid, (name, address) in list(self._starting.items()):
            found = load_of(address)
            if found is not None and found.phase == pb.SERVING:
                self._starting.pop(uid, None)
                path = self._api.path("Pod", name, self._namespace)
                self._api.call("PATCH", path, {"metadata": {"annotations": {UNREADY: None}}}, MERGE)

    def _start_worker(self, pod: Document) -> subprocess.Popen[bytes]:
        (container,) = pod["spec"]["containers"]
        meta, address = pod["metadata"], pod["status"]["podIP"]
        words = {"0.0.0.0": address, "$(POD_IP)": address, "$(POD_NAME)": meta["name"]}
        role = meta["labels"][names.ROLE_LABEL]
        flags = self.flags.get(role, {}) | self.flags.get(meta["name"], {})
        argv = [
            sys.executable,
            "-m",
            "proa_workers.main",
            *_args(container["args"], words, {"--model": self._model, **flags}),
        ]
        environment = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        wanted = {"SMG_PAIRING_PROTOCOL": environment["SMG_PAIRING_PROTOCOL"]}
        return self._run(argv, meta["name"], wanted)

    def _start_gateway(self, pod: Document) -> subprocess.Popen[bytes]:
        (container,) = pod["spec"]["containers"]
        meta, address = pod["metadata"], pod["status"]["podIP"]
        (health,) = free_ports(1, "127.0.0.1")
        words = {"0.0.0.0": address}
        args = _args(container["args"], words, {"--health-check-port": str(health)})
        account = self._bed.service_account_kubeconfig(self._namespace, pod["spec"]["serviceAccountName"])
        self.url = f"http://{address}:{GATEWAY_PORTS[Port.HTTP]}"
        smg = str(Path(sys.executable).with_name("smg"))
        return self._run([smg, "launch", *args], meta["name"], {"KUBECONFIG": str(account)})

    def _run(self, argv: list[str], name: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self._logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **environment})


def load_of(address: str) -> pb.LoadReply | None:
    """What a worker says of itself; None while it does not answer."""
    with grpc.insecure_channel(f"{address}:{WORKER_PORTS[Port.ADMIN]}") as channel:
        try:
            found: pb.LoadReply = rpc.WorkerAdminStub(channel).Load(pb.LoadRequest(), timeout=2.0)
        except grpc.RpcError:
            return None
    return found


def _args(args: list[str], words: dict[str, str], flags: dict[str, str]) -> list[str]:
    """As the kubelet and the image would have it: `words` for words, `flags` for the values of flags."""
    return [flags.get(before, words.get(word, word)) for before, word in zip(["", *args], args, strict=False)]


def gateway_role(namespace: str) -> Document:
    """The Role that the chart makes: what a gateway may see."""
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    meta = {"name": names.GATEWAY_ROLE, "namespace": namespace}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules}
