"""The rendered gateway finds the rendered workers: real smg, real sim workers on loopback, pods played by kwok."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from proa_operator import names
from proa_operator.api.engine import EngineType
from proa_operator.api.service import ServiceSpec
from proa_operator.names import Role
from proa_operator.render import RenderSettings, Service, gateway_objects, group_objects, revision_of

from testbed.control_plane import ControlPlane
from testbed.ports import free_ports
from testbed.wait import until

ROOT = Path(__file__).parents[2]
NODE = "render-gateway"
ADDRESSES = {Role.PREFILL: "127.0.61.1", Role.DECODE: "127.0.61.2"}
SETTINGS = RenderSettings(
    operator_image="operator:1",
    engine_images={EngineType.SIM: "sim:1"},
    operator_namespace="proa-system",
    operator_labels={"app": "proa-operator"},
    bundled_models=str(ROOT / "examples" / "models"),
)


def _service(namespace: str, topology: str) -> Service:
    pools = {
        role.value: {"podTemplate": {"metadata": {"annotations": {"testbed.proa.dev/pod-ip": address}}}}
        for role, address in ADDRESSES.items()
    }
    document = {
        "topology": topology,
        "model": {"uri": "bundled://tiny-moe", "name": "m"},
        "engine": {"type": "sim", "args": ["--sim-speed", "100"]},
        "pools": pools,
        "placement": {"requireLabels": {"bed": NODE}},
    }
    spec = ServiceSpec.model_validate_json(json.dumps(document))
    return Service(name="s", namespace=namespace, uid="u", spec=spec)


def _args(template: dict[str, Any], words: dict[str, str], flags: dict[str, str]) -> list[str]:
    """The container's arguments as without pods: `words` for words, `flags` for the values of flags."""
    (container,) = template["spec"]["containers"]
    args = container["args"]
    return [flags.get(before, words.get(word, word)) for before, word in zip(["", *args], args, strict=False)]


@contextmanager
def _running(argv: list[str], log: Path, **environment: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        yield
    finally:
        process.kill()
        process.wait(timeout=60)


@contextmanager
def _group(api: ControlPlane, service: Service, role: Role, log: Path) -> Iterator[str]:
    """A rendered group with its process; yields the name of its pod, which is Ready."""
    revision = revision_of(service.spec)
    objects = group_objects(service, revision=revision, role=role, index=0, settings=SETTINGS)
    for one in objects:
        one["metadata"].pop("ownerReferences")
    api.apply(objects, f"--field-manager={names.MANAGER}")
    name = names.pod_name(objects[0]["metadata"]["name"], 0)
    (stateful_set,) = [one for one in objects if one["kind"] == "StatefulSet"]
    address = ADDRESSES[role]
    words = {"0.0.0.0": address, "$(POD_IP)": address, "$(POD_NAME)": name}
    argv = [sys.executable, "-m", "proa_workers.main", *_args(stateful_set["spec"]["template"], words, {})]
    with _running(argv, log, SMG_PAIRING_PROTOCOL=revision):
        _ungate(api, service.namespace, name)
        _route(api, service.namespace, name, is_routable=True)
        yield name


def _ungate(api: ControlPlane, namespace: str, pod: str) -> None:
    patch = json.dumps([{"op": "remove", "path": "/spec/schedulingGates"}])
    words = ("patch", "pod", pod, f"--namespace={namespace}", "--type=json", f"--patch={patch}")
    api.until(lambda: api.kubectl(*words), what=f"{pod} made and ungated")


def _route(api: ControlPlane, namespace: str, pod: str, *, is_routable: bool) -> None:
    status = "True" if is_routable else "False"
    patch = json.dumps({"status": {"conditions": [{"type": names.ROUTABLE_CONDITION, "status": status}]}})
    words = ("patch", "pod", pod, f"--namespace={namespace}", "--subresource=status", f"--patch={patch}")
    api.kubectl(*words)
    api.kubectl("wait", f"--for=condition=Ready={status}", f"pod/{pod}", f"--namespace={namespace}", "--timeout=60s")


@contextmanager
def _gateway(api: ControlPlane, service: Service, log: Path) -> Iterator[str]:
    """The rendered gateway as a process, with the rights of its ServiceAccount only; yields its URL."""
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    meta = {"name": names.GATEWAY_ROLE, "namespace": service.namespace}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules}
    objects = gateway_objects(service, settings=SETTINGS)
    for one in objects:
        one["metadata"].pop("ownerReferences")
    api.apply([role, *(one for one in objects if one["kind"] in ("ServiceAccount", "RoleBinding"))])
    (deployment,) = [one for one in objects if one["kind"] == "Deployment"]
    port, health, metrics = (str(number) for number in free_ports(3, "127.0.0.1"))
    flags = {"--port": port, "--health-check-port": health, "--prometheus-port": metrics}
    account = api.service_account_kubeconfig(service.namespace, names.gateway_name(service.name))
    argv = [
        str(Path(sys.executable).with_name("smg")),
        "launch",
        *_args(deployment["spec"]["template"], {"0.0.0.0": "127.0.0.1"}, flags),
    ]
    with _running(argv, log, KUBECONFIG=str(account)):
        yield f"http://127.0.0.1:{port}"


def _answer(url: str) -> int:
    """HTTP status of a chat completion."""
    body = {"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}
    return _status(f"{url}/v1/chat/completions", body)


def _status(url: str, body: dict[str, Any]) -> int:
    """HTTP status of a POST; 0 while nobody listens."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module", autouse=True)
def node(api: ControlPlane) -> None:
    """A played node for the pods of this file."""
    api.nodes.add(NODE, labels={"bed": NODE})


@pytest.mark.parametrize("topology", ["Disaggregated", "Aggregated"])
def test_an_answer_through_the_gateway_until_a_worker_is_not_routable(
    api: ControlPlane, namespace: str, tmp_path: Path, topology: str
) -> None:
    service = _service(namespace, topology)
    with (
        _group(api, service, Role.PREFILL, tmp_path / "prefill.log") as prefill,
        _group(api, service, Role.DECODE, tmp_path / "decode.log") as decode,
        _gateway(api, service, tmp_path / "gateway.log") as url,
    ):
        until(lambda: _answer(url) == 200, seconds=120, what="an answer", every=0.5)
        assert _status(f"{url}/workers", {"url": "grpc://127.0.0.1:9"}) == 401, "a client cannot add a backend"
        _route(api, namespace, decode, is_routable=False)
        if topology == "Disaggregated":
            until(lambda: _answer(url) in (404, 503), seconds=90, what="no answer without decode", every=0.5)
        else:
            _route(api, namespace, prefill, is_routable=False)
            until(lambda: _answer(url) in (404, 503), seconds=90, what="no answer without workers", every=0.5)
