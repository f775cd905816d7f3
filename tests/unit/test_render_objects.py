"""What is rendered, as tables: command lines, placement, volumes, security, budgets, refusals."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from proa_operator import names
from proa_operator.api.engine import EngineType
from proa_operator.api.service import ServiceSpec
from proa_operator.names import Role
from proa_operator.render import (
    PodSelector,
    RenderError,
    RenderSettings,
    Service,
    download_job,
    download_objects,
    gateway_objects,
    group_objects,
    node_requirements,
    refusals,
    revision_objects,
    service_objects,
    worker_pool_replicas,
)

SETTINGS = RenderSettings(
    operator_image="operator:1",
    engine_images={engine: f"{engine.value}:1" for engine in EngineType},
    operator_namespace="proa-system",
    operator_labels={"app": "proa-operator"},
    prometheus=PodSelector(pod_labels={"app": "prometheus"}),
    has_pod_monitors=True,
    has_http_routes=True,
    rdma_resource="amd.com/nic",
)
GPU = {"product": "MI300X", "gpusPerPod": 8}
OWN_PROGRAM = {"podTemplate": {"spec": {"containers": [{"name": "worker", "command": ["vllm-worker"]}]}}}
WIDE = {"nodesPerGroup": 2, "parallelism": {"dp": 16, "ep": 16}}


def _service(**spec: Any) -> Service:
    document = {
        "model": {"uri": "bundled://tiny-moe", "name": "m"},
        "engine": {"type": "native"},
        "pools": {"prefill": {}, "decode": {}},
    } | spec
    return Service(name="tiny", namespace="team", uid="u", spec=ServiceSpec.model_validate_json(json.dumps(document)))


def _group(service: Service, role: Role = Role.DECODE, settings: RenderSettings = SETTINGS) -> list[dict[str, Any]]:
    return group_objects(service, revision="0123abcd", role=role, index=3, settings=settings)


def _kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def _pod(service: Service, role: Role = Role.DECODE, settings: RenderSettings = SETTINGS) -> dict[str, Any]:
    pod: dict[str, Any] = _kind(_group(service, role, settings), "StatefulSet")["spec"]["template"]["spec"]
    return pod


def _worker(service: Service, role: Role = Role.DECODE) -> dict[str, Any]:
    container: dict[str, Any] = _pod(service, role)["containers"][0]
    return container


def _flag(args: list[str], name: str) -> str:
    return args[args.index(f"--{name}") + 1]


def _env(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in container["env"]}


def _gateway(service: Service) -> dict[str, Any]:
    pod: dict[str, Any] = _kind(gateway_objects(service, settings=SETTINGS), "Deployment")["spec"]["template"]["spec"]
    return pod


def _everything(service: Service) -> list[dict[str, Any]]:
    groups = [one for role in service.roles for one in _group(service, role)]
    return [
        *groups,
        *revision_objects(service, revision="0123abcd"),
        *service_objects(service, settings=SETTINGS),
        *gateway_objects(service, settings=SETTINGS),
        *download_objects(service, settings=SETTINGS),
    ]


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "flag", "value"),
    [
        ({}, "role", "decode"),
        ({"topology": "Aggregated"}, "role", "both"),
        ({}, "device", "cpu"),
        ({"accelerator": GPU}, "device", "cuda"),
        ({"accelerator": GPU, "engine": {"type": "sim"}}, "device", "auto"),
        ({}, "transport", "tcp"),
        ({"engine": {"type": "vllm"}, "kvTransfer": {"backend": "mori"}}, "transport", "mori"),
        ({}, "host", "0.0.0.0"),
        ({}, "advertise-host", "$(POD_IP)"),
        ({}, "engine-id", "$(POD_NAME)"),
        ({}, "model", "/opt/proa/models/tiny-moe"),
        ({"model": {"uri": "pvc://c/a/b", "name": "m"}}, "model", "/models/a/b"),
        ({"model": {"uri": "pvc://c", "name": "m"}}, "model", "/models"),
        ({"model": {"uri": "file:///srv/m", "name": "m"}}, "model", "/models"),
        ({"model": {"uri": "hf://a/b", "name": "m"}}, "model", "/models/checkpoint"),
        ({"engine": {"type": "vllm"}, "pools": {"decode": WIDE, "prefill": {}}}, "num-nodes", "2"),
        ({"engine": {"type": "vllm"}, "pools": {"decode": WIDE, "prefill": {}}}, "node-rank", "$(POD_INDEX)"),
        (
            {"engine": {"type": "vllm"}, "pools": {"decode": WIDE, "prefill": {}}},
            "leader-host",
            "tiny-0123abcd-decode-003-0.tiny-0123abcd-decode-003.team.svc",
        ),
        ({"engine": {"type": "vllm"}, "pools": {"decode": {"speculative": {"mtp": 2}}, "prefill": {}}}, "mtp", "2"),
    ],
)
def test_worker_flags(spec: dict[str, Any], flag: str, value: str) -> None:
    assert _flag(_worker(_service(**spec))["args"], flag) == value


def test_flags_are_settings_of_the_worker() -> None:
    settings = pytest.importorskip("proa_workers.settings")
    args = _worker(_service(engine={"type": "sim", "args": ["--sim-speed", "2"]}))["args"]
    read = settings.parse_settings(args, {"SMG_PAIRING_PROTOCOL": "0123abcd"})
    assert (read.role, read.engine, read.sim_speed, read.pairing_protocol) == ("decode", "sim", 2.0, "0123abcd")


def test_the_manifests_own_arguments_and_variables_win() -> None:
    engine = {"type": "native", "args": ["--device", "auto"], "env": [{"name": "HOME", "value": "/h"}]}
    worker = _worker(_service(engine=engine))
    assert worker["args"][-2:] == ["--device", "auto"]
    assert _env(worker)["HOME"] == "/h"
    assert len(worker["env"]) == len({one["name"] for one in worker["env"]})


def test_the_sim_engine_gets_no_shape() -> None:
    worker = _worker(_service(engine={"type": "sim"}, pools={"decode": WIDE, "prefill": {}}))
    assert not {"--dp", "--ep", "--num-nodes"} & set(worker["args"])


@pytest.mark.parametrize(
    ("spec", "present", "absent"),
    [
        pytest.param({}, set(), {"HSA_ENABLE_SDMA", "VLLM_ROCM_USE_AITER"}, id="cpu"),
        pytest.param({"accelerator": GPU}, {"HSA_ENABLE_SDMA"}, {"VLLM_ROCM_USE_AITER", "MORI_DISABLE_TOPO"}, id="amd"),
        pytest.param(
            {"accelerator": {**GPU, "resourceName": "nvidia.com/gpu"}}, set(), {"HSA_ENABLE_SDMA"}, id="not amd"
        ),
        pytest.param(
            {"accelerator": GPU, "engine": {"type": "vllm"}, "kvTransfer": {"backend": "mori"}},
            {"VLLM_ROCM_USE_AITER", "MORI_DISABLE_TOPO", "NCCL_IB_DISABLE"},
            {"NCCL_SOCKET_IFNAME"},
            id="vllm with mori",
        ),
        pytest.param(
            {"accelerator": GPU, "engine": {"type": "vllm"}, "pools": {"decode": WIDE, "prefill": {}}},
            {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"},
            {"MORI_DISABLE_TOPO"},
            id="two nodes",
        ),
    ],
)
def test_amd_environment(spec: dict[str, Any], present: set[str], absent: set[str]) -> None:
    env = _env(_worker(_service(**spec)))
    assert present <= set(env)
    assert not absent & set(env)
    assert env["SMG_PAIRING_PROTOCOL"] == "0123abcd"


def test_a_group_waits_for_its_gang_and_for_its_route() -> None:
    objects = _group(_service(drain={"timeoutSeconds": 100}))
    stateful_set = _kind(objects, "StatefulSet")["spec"]
    pod = stateful_set["template"]["spec"]
    assert (stateful_set["podManagementPolicy"], stateful_set["updateStrategy"]) == ("Parallel", {"type": "OnDelete"})
    assert pod["schedulingGates"] == [{"name": names.GANG_GATE}]
    assert pod["readinessGates"] == [{"conditionType": names.ROUTABLE_CONDITION}]
    assert pod["terminationGracePeriodSeconds"] > 100
    assert pod["enableServiceLinks"] is False
    assert _kind(objects, "Service")["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize(("gpu", "seconds"), [(None, 600), (GPU, 7200)])
def test_start_up_budget(gpu: dict[str, Any] | None, seconds: int) -> None:
    probe = _worker(_service(**({"accelerator": gpu} if gpu else {})))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == seconds
    assert probe["grpc"] == {"port": 50051}


def test_devices_are_requested_and_limited() -> None:
    service = _service(accelerator=GPU, security={"profile": "Rdma"}, placement={"networks": ["n/r0", "n/r1"]})
    resources = _worker(service)["resources"]
    assert resources["limits"] == {"amd.com/gpu": "8", "amd.com/nic": "2"}
    assert resources["limits"].items() <= resources["requests"].items()
    template = _kind(_group(service), "StatefulSet")["spec"]["template"]
    assert template["metadata"]["annotations"] == {"k8s.v1.cni.cncf.io/networks": "n/r0,n/r1"}


def test_pod_template_is_merged_and_refused_by_its_field() -> None:
    ok = {"spec": {"priorityClassName": "high"}}
    assert _pod(_service(pools={"prefill": {}, "decode": {"podTemplate": ok}}))["priorityClassName"] == "high"
    with pytest.raises(RenderError, match=r"spec\.pools\.decode\.podTemplate\.spec\.hostname"):
        _pod(_service(pools={"prefill": {}, "decode": {"podTemplate": {"spec": {"hostname": "x"}}}}))


def test_no_image_is_an_error_with_the_fix() -> None:
    with pytest.raises(RenderError, match="chart sets no image for native"):
        _pod(_service(), settings=dataclasses.replace(SETTINGS, engine_images={}))


# --- placement -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "labels", "is_eligible"),
    [
        pytest.param({}, {}, True, id="anywhere"),
        pytest.param({"placement": {"requireLabels": {"zone": "a"}}}, {"zone": "b"}, False, id="label differs"),
        pytest.param({"placement": {"requireLabels": {"zone": "a"}}}, {"zone": "a"}, True, id="label as asked"),
        pytest.param({"accelerator": GPU}, {}, False, id="no such GPU"),
        pytest.param({"accelerator": GPU}, {"amd.com/gpu.device-id": "74a1"}, True, id="MI300X"),
        pytest.param({"accelerator": GPU}, {"amd.com/gpu.device-id": "75a3"}, False, id="MI355X instead"),
        pytest.param(
            {"accelerator": GPU},
            {"amd.com/gpu.device-id": "74a1", "amd.com/compute-memory-partition": "cpx_nps4"},
            False,
            id="partitioned",
        ),
        pytest.param(
            {"accelerator": {**GPU, "partition": "CPX"}}, {"amd.com/gpu.device-id": "74a1"}, False, id="not partitioned"
        ),
        pytest.param(
            {"accelerator": {**GPU, "partition": "CPX"}},
            {"amd.com/gpu.device-id": "74a1", "amd.com/compute-memory-partition": "cpx_nps1"},
            True,
            id="partitioned as asked",
        ),
        pytest.param(
            {"accelerator": GPU},
            {"amd.com/gpu.device-id": "74a1", "amd.com/rail-bandwidth": "failed"},
            False,
            id="failed a check",
        ),
        pytest.param({"accelerator": {**GPU, "resourceName": "nvidia.com/gpu"}}, {}, True, id="not AMD"),
    ],
)
def test_node_requirements_and_their_affinity_agree(
    spec: dict[str, Any], labels: dict[str, str], is_eligible: bool
) -> None:
    service = _service(**spec)
    assert all(rule.holds(labels) for rule in node_requirements(service.spec)) is is_eligible
    assert _schedules(_pod(service), labels) is is_eligible


def _schedules(pod: dict[str, Any], labels: dict[str, str]) -> bool:
    """The scheduler's reading of nodeSelector and required node affinity."""
    affinity = pod.get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    rules = [rule for term in terms for rule in term["matchExpressions"]]
    has_selected = pod.get("nodeSelector", {}).items() <= labels.items()
    return has_selected and all(
        (labels.get(rule["key"]) in rule["values"]) is (rule["operator"] == "In") for rule in rules
    )


def test_pods_of_a_wide_group_share_a_rack_and_no_node() -> None:
    service = _service(pools={"decode": WIDE, "prefill": {}}, placement={"topologyKey": "rack"})
    affinity = _pod(service)["affinity"]
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    (near,), (apart,) = affinity["podAffinity"][required], affinity["podAntiAffinity"][required]
    assert (near["topologyKey"], apart["topologyKey"]) == ("rack", "kubernetes.io/hostname")
    assert near["labelSelector"] == apart["labelSelector"]
    assert near["labelSelector"]["matchLabels"][names.GROUP_LABEL] == "tiny-0123abcd-decode-003"
    assert "affinity" not in _pod(_service())


def test_tolerations_are_the_users_and_the_gpu_nodes() -> None:
    mine = {"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 0}
    pod = _pod(_service(accelerator=GPU, placement={"tolerations": [mine, {"operator": "Exists"}]}))
    assert pod["tolerations"] == [
        mine,
        {"operator": "Exists"},
        {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    ]


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("bundled://tiny-moe", None),
        ("pvc://claim/a", {"persistentVolumeClaim": {"claimName": "claim", "readOnly": True}}),
        ("file:///srv/m", {"hostPath": {"path": "/srv/m", "type": "Directory"}}),
    ],
)
def test_a_model_that_is_there_is_mounted_as_it_is(uri: str, source: dict[str, Any] | None) -> None:
    service = _service(model={"uri": uri, "name": "m"})
    volumes = [one for one in _pod(service)["volumes"] if one["name"] == "model"]
    assert volumes == ([] if source is None else [{"name": "model", **source}])
    mounts = [one for one in _worker(service)["volumeMounts"] if one["name"] == "model"]
    assert all(mount["readOnly"] for mount in mounts)
    assert download_objects(service, settings=SETTINGS) == []


@pytest.mark.parametrize("uri", ["hf://org/m", "oci://registry/image"])
def test_a_model_from_a_hub_is_downloaded_once_into_a_claim_of_all_groups(uri: str) -> None:
    model = {"uri": uri, "name": "m", "cache": {"size": "800Gi", "storageClass": "nfs"}}
    service = _service(model=model | {"tokenSecretRef": {"name": "hf", "key": "token"}})
    claim = _kind(revision_objects(service, revision="0123abcd"), "PersistentVolumeClaim")
    (job,) = download_objects(service, settings=SETTINGS)
    pod = job["spec"]["template"]["spec"]
    used = [one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
    assert used == [claim["metadata"]["name"]]
    assert claim["spec"]["storageClassName"] == "nfs"
    assert _claim_of(service, Role.PREFILL) == _claim_of(service, Role.DECODE) == claim["metadata"]["name"]
    env = pod["containers"][0]["env"]
    assert env[-1] == {"name": "MODEL_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}


def _claim_of(service: Service, role: Role) -> str:
    (volume,) = [one for one in _pod(service, role)["volumes"] if one["name"] == "model"]
    name: str = volume["persistentVolumeClaim"]["claimName"]
    return name


@pytest.mark.parametrize(
    ("change", "is_same_claim", "is_same_job"),
    [
        pytest.param({"cache": {"size": "2Ti"}}, True, True, id="size"),
        pytest.param({"tokenSecretRef": {"name": "a", "key": "b"}}, True, False, id="token"),
        pytest.param({"cache": {"storageClass": "x"}}, False, False, id="storage class"),
        pytest.param({"uri": "hf://org/other"}, False, False, id="model"),
        pytest.param({"dtype": "fp8"}, True, True, id="dtype"),
    ],
)
def test_what_makes_another_claim_or_job(change: dict[str, Any], is_same_claim: bool, is_same_job: bool) -> None:
    """Neither a claim's class nor a Job's template can be changed."""
    model = {"uri": "hf://org/m", "name": "m"}
    old, new = _service(model=model), _service(model=model | change)
    assert (_claim_of(old, Role.DECODE) == _claim_of(new, Role.DECODE)) is is_same_claim
    assert (download_job(old) == download_job(new)) is is_same_job


def test_downloads_go_by_the_mirror_and_proxies_and_trust_the_authorities_of_the_installation() -> None:
    net = {"HF_ENDPOINT": "https://mirror", "HTTPS_PROXY": "http://proxy:3128", "HTTP_PROXY": ""}
    settings = dataclasses.replace(SETTINGS, download_env=net, download_ca="company-ca")
    service = _service(model={"uri": "hf://org/m", "name": "m"})
    pod = _kind(download_objects(service, settings=settings), "Job")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    path = "/etc/proa/ca/ca.crt"
    assert _env(container).items() >= {**net, "SSL_CERT_FILE": path}.items() - {("HTTP_PROXY", "")}
    assert "HTTP_PROXY" not in _env(container)
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "ca")
    assert mount == {"name": "ca", "mountPath": "/etc/proa/ca", "readOnly": True}
    (volume,) = (one for one in pod["volumes"] if one["name"] == "ca")
    assert volume["configMap"] == {"name": "company-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    plain = _kind(download_objects(service, settings=SETTINGS), "Job")["spec"]["template"]["spec"]
    assert not {"SSL_CERT_FILE", "HF_ENDPOINT"} & _env(plain["containers"][0]).keys()


def test_compiled_kernels_are_kept_per_image_gpu_and_model() -> None:
    spec: dict[str, Any] = {"accelerator": GPU, "engine": {"type": "native", "image": "a"}}
    folders = {
        _env(_worker(_service(**(spec | change))))["TRITON_CACHE_DIR"]
        for change in (
            {},
            {"engine": {"type": "native", "image": "b"}},
            {"accelerator": {**GPU, "product": "MI355X"}},
            {"accelerator": {**GPU, "partition": "CPX"}},
            {"model": {"uri": "bundled://other", "name": "m"}},
        )
    }
    assert len(folders) == 5
    claim = _kind(revision_objects(_service(**spec), revision="0123abcd"), "PersistentVolumeClaim")
    assert {"persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}, "name": "cache"} in _pod(
        _service(**spec)
    )["volumes"]


# --- gateway ---------------------------------------------------------------------------------------------------------


def test_the_gateway_finds_the_leaders_of_its_own_service() -> None:
    args = _gateway(_service())["containers"][0]["args"]
    start = args.index("--prefill-selector")
    template = _kind(_group(_service(), Role.PREFILL), "StatefulSet")["spec"]["template"]
    labels = template["metadata"]["labels"] | {names.POD_INDEX_LABEL: "0"}
    chosen = dict(word.split("=") for word in args[start + 1 : args.index("--decode-selector")])
    assert chosen.items() <= labels.items()
    assert chosen[names.ROLE_LABEL] == "prefill"
    assert _flag(args, "service-discovery-namespace") == "team"
    assert _flag(args, "service-discovery-port") == "50051"


def test_a_switch_of_topology_moves_the_gateway_to_the_new_workers_only() -> None:
    service = _service(topology="Aggregated")
    args = _gateway(service)["containers"][0]["args"]
    chosen = dict(word.split("=") for word in args[args.index("--selector") + 1 :] if "=" in word)
    new = _kind(_group(service), "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    old = _kind(_group(_service()), "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert chosen.items() <= (new | {names.POD_INDEX_LABEL: "0"}).items()
    assert not chosen.items() <= (old | {names.POD_INDEX_LABEL: "0"}).items()
    assert "--pd-disaggregation" not in args


@pytest.mark.parametrize(
    ("spec", "threshold"),
    [
        ({}, "2"),
        ({"pools": {"prefill": {"replicas": 2}, "decode": {"replicas": 2}}}, "1"),
        ({"pools": {"prefill": {"replicas": 2}, "decode": {"replicas": 1}}}, "2"),
        ({"topology": "Aggregated"}, "1"),
        ({"topology": "Aggregated", "pools": {"decode": {}}}, "2"),
        ({"autoscaling": {"mode": "Active", "prefill": {"min": 3, "max": 4}, "decode": {"min": 2, "max": 4}}}, "1"),
    ],
)
def test_the_breaker_opens_at_once_only_where_another_worker_can_take_over(
    spec: dict[str, Any], threshold: str
) -> None:
    assert _flag(_gateway(_service(**spec))["containers"][0]["args"], "cb-failure-threshold") == threshold


def test_the_key_and_certificate_come_from_secrets() -> None:
    gateway = {
        "apiKeySecretRef": {"name": "s", "key": "k"},
        "tls": {"secretName": "cert"},
        "args": ["--log-level", "info"],
    }
    pod = _gateway(_service(gateway=gateway))
    container = pod["containers"][0]
    assert _flag(container["args"], "api-key") == "$(GATEWAY_API_KEY)"
    assert container["env"][-1]["valueFrom"] == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert _flag(container["args"], "tls-cert-path") == "/tls/tls.crt"
    assert pod["volumes"][-1]["secret"]["secretName"] == "cert"
    assert container["args"][-2:] == ["--log-level", "info"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readiness", "port": 8081}


@pytest.mark.parametrize(
    ("mode", "least", "path"),
    [
        ("Active", 0, "/liveness"),
        ("Advisory", 0, "/liveness"),
        ("Active", 1, "/readiness"),
        ("Disabled", 0, "/readiness"),
    ],
)
def test_the_gateway_of_a_service_that_may_sleep_is_ready_without_workers(mode: str, least: int, path: str) -> None:
    bounds = {"min": least, "max": 2}
    probe = _gateway(_service(autoscaling={"mode": mode, "prefill": bounds, "decode": bounds}))["containers"][0]
    assert probe["readinessProbe"]["httpGet"] == {"path": path, "port": 8081}
    assert ("initialDelaySeconds" in probe["readinessProbe"]) is (path == "/liveness")


@pytest.mark.parametrize(("is_cluster_wide", "kind"), [(False, "Role"), (True, "ClusterRole")])
def test_the_gateway_has_the_charts_role_in_its_namespace(is_cluster_wide: bool, kind: str) -> None:
    settings = dataclasses.replace(SETTINGS, is_cluster_wide=is_cluster_wide)
    binding = _kind(gateway_objects(_service(), settings=settings), "RoleBinding")
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "proa-gateway"}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "tiny-gateway", "namespace": "team"}]


def test_clients_cannot_add_backends() -> None:
    container = _gateway(_service())["containers"][0]
    assert _flag(container["args"], "control-plane-api-keys") == "locked:locked:admin:$(POD_UID)"
    assert {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}} in container["env"]


def test_parsers_and_port() -> None:
    service = _service(gateway={"port": 443, "toolParser": "deepseek", "reasoningParser": "deepseek_r1"})
    args = _gateway(service)["containers"][0]["args"]
    assert (_flag(args, "tool-call-parser"), _flag(args, "reasoning-parser")) == ("deepseek", "deepseek_r1")
    (port,) = _kind(gateway_objects(service, settings=SETTINGS), "Service")["spec"]["ports"]
    assert port == {"name": "http", "port": 443, "targetPort": "http"}


def test_a_route_only_when_asked() -> None:
    route = {"gateway": "public", "gatewayNamespace": "infra", "hostnames": ["m.example"]}
    objects = gateway_objects(_service(gateway={"httpRoute": route}), settings=SETTINGS)
    spec = _kind(objects, "HTTPRoute")["spec"]
    assert spec["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert spec["hostnames"] == ["m.example"]
    assert not [one for one in gateway_objects(_service(), settings=SETTINGS) if one["kind"] == "HTTPRoute"]


# --- the whole service -----------------------------------------------------------------------------------------------

SERVICES = {
    "cpu": _service(),
    "aggregated": _service(topology="Aggregated", pools={"decode": {}}),
    "wide": _service(engine={"type": "vllm"}, accelerator=GPU, pools={"prefill": WIDE, "decode": WIDE}),
    "hub": _service(model={"uri": "hf://o/m", "name": "m"}, gateway={"tls": {"secretName": "t"}}),
}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_child_is_owned_labelled_and_unique(service: Service) -> None:
    objects = _everything(service)
    for one in objects:
        meta = one["metadata"]
        assert meta["ownerReferences"][0]["uid"] == "u"
        assert meta["namespace"] == "team"
        assert meta["labels"][names.SERVICE_LABEL] == "tiny"
        assert all(len(value) <= 63 for value in meta["labels"].values())
    keys = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_pod_has_exactly_one_budget(service: Service) -> None:
    objects = _everything(service)
    budgets = [one["spec"]["selector"]["matchLabels"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    templates = [one["spec"]["template"] for one in objects if one["kind"] in ("StatefulSet", "Deployment")]
    for template in templates:
        labels = template["metadata"]["labels"]
        assert len([budget for budget in budgets if budget.items() <= labels.items()]) == 1
    assert len(templates) == len(budgets)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_selectors_select_the_pods_of_their_own_object_only(service: Service) -> None:
    sets = [one for one in _everything(service) if one["kind"] in ("StatefulSet", "Deployment")]
    for owner in sets:
        selector = owner["spec"]["selector"]["matchLabels"]
        chosen = [
            other for other in sets if selector.items() <= other["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert chosen == [owner]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_equal_input_gives_equal_objects_without_shared_parts(service: Service) -> None:
    first, second = _everything(service), _everything(service)
    assert json.dumps(first) == json.dumps(second)
    seen: set[int] = set()
    for part in _parts(first):
        assert id(part) not in seen, f"shared: {part}"
        seen.add(id(part))


def _parts(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict | list) else []
    return own + [part for one in children for part in _parts(one)]


def test_pool_replicas_are_in_an_object_of_their_own() -> None:
    pools = [one for one in service_objects(_service(), settings=SETTINGS) if one["kind"] == "WorkerPool"]
    assert all("replicas" not in pool["spec"] for pool in pools)
    service = _service(pools={"prefill": {"replicas": 5}, "decode": {}})
    assert worker_pool_replicas(service, Role.PREFILL) == {
        **pools[0],
        "spec": {"service": "tiny", "role": "prefill", "replicas": 5},
    }


# --- Pod Security ----------------------------------------------------------------------------------------------------

VOLUMES = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret", "name"}


def restricted_violations(pod: dict[str, Any]) -> list[str]:
    """What the restricted level of Pod Security would refuse, as far as a rendered pod can have it."""
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    found += [f"volume {one['name']}" for one in pod.get("volumes", []) if set(one) - VOLUMES]
    security = pod.get("securityContext", {})
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccomp")
    if not security.get("runAsNonRoot") or security.get("runAsUser") == 0:
        found.append("root")
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append("privilege")
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append("capabilities")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append("hostPort")
    return found


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_pods_pass_the_restricted_level(service: Service) -> None:
    kinds = ("StatefulSet", "Deployment", "Job")
    pods = [one["spec"]["template"]["spec"] for one in _everything(service) if one["kind"] in kinds]
    assert pods
    assert [restricted_violations(pod) for pod in pods] == [[]] * len(pods)
    for container in (container for pod in pods for container in pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["resources"]["requests"]


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda pod: pod.update(hostIPC=True), "hostIPC"),
        (lambda pod: pod["volumes"].append({"name": "x", "hostPath": {}}), "volume x"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "seccomp"),
        (lambda pod: pod["securityContext"].update(runAsUser=0), "root"),
        (lambda pod: pod["containers"][0].pop("securityContext"), "privilege"),
        (lambda pod: pod["containers"][0]["ports"][0].update(hostPort=1), "hostPort"),
    ],
)
def test_the_restricted_check_finds_planted_faults(plant: Callable[[dict[str, Any]], None], said: str) -> None:
    pod = copy.deepcopy(_pod(_service()))
    plant(pod)
    assert said in restricted_violations(pod)


def test_rdma_adds_the_right_to_lock_memory_and_nothing_else() -> None:
    service = _service(security={"profile": "Rdma"})
    assert restricted_violations(_pod(service)) == ["capabilities"]
    assert _worker(service)["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert restricted_violations(_gateway(service)) == []


@pytest.mark.parametrize(("own", "asked"), [("", "amd.com/nic"), ("rdma/hca", "rdma/hca")])
def test_rdma_devices_are_the_manifest_s_or_else_the_chart_s(own: str, asked: str) -> None:
    service = _service(accelerator={**GPU, "rdmaResourceName": own}, security={"profile": "Rdma"})
    assert _worker(service)["resources"]["limits"] == {"amd.com/gpu": "8", asked: "8"}


def test_an_eviction_is_refused_while_a_group_drains_and_is_therefore_not_ready() -> None:
    budget = _kind(_group(_service()), "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (0, "IfHealthyBudget")


def test_shared_memory_holds_the_pool_of_a_worker_on_a_cpu() -> None:
    """1 GiB of blocks where nothing else is asked for, and a block to probe with."""
    (shm,) = (volume for volume in _pod(_service())["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({}, []),
        ({"security": {"mtls": True}}, ["spec.security.mtls"]),
        ({"accelerator": {"product": "MI1"}}, ["spec.accelerator.product"]),
        ({"accelerator": {"product": "H100", "resourceName": "nvidia.com/gpu"}}, []),
        ({"kvTransfer": {"backend": "mori"}}, ["spec.kvTransfer.backend"]),
        ({"engine": {"type": "vllm"}}, ["spec.engine.type"]),
        ({"engine": {"type": "vllm"}, "pools": {"prefill": OWN_PROGRAM, "decode": {}}}, ["spec.engine.type"]),
        (
            {
                "engine": {"type": "vllm"},
                "kvTransfer": {"backend": "mori"},
                "pools": {"prefill": OWN_PROGRAM, "decode": OWN_PROGRAM},
            },
            [],
        ),
        ({"model": {"uri": "bundled://m", "name": "m", "dtype": "fp8"}}, ["spec.model.dtype"]),
        (
            {"pools": {"prefill": {}, "decode": WIDE}},
            ["spec.pools.decode.nodesPerGroup", "spec.pools.decode.parallelism.dp", "spec.pools.decode.parallelism.ep"],
        ),
        ({"pools": {"prefill": {}, "decode": WIDE}, "engine": {"type": "sim"}}, []),
        (
            {"pools": {"prefill": {"overlap": {"twoBatch": "on"}}, "decode": {}}},
            ["spec.pools.prefill.overlap.twoBatch"],
        ),
        ({"pools": {"prefill": {"speculative": {"mtp": 1}}, "decode": {}}}, ["spec.pools.prefill.speculative.mtp"]),
        ({"pools": {"prefill": {}, "decode": {"podTemplate": {"x": 1}}}}, [""]),
    ],
)
def test_what_cannot_be_honoured_is_refused(spec: dict[str, Any], fields: list[str]) -> None:
    found = refusals(_service(**spec), settings=SETTINGS)
    assert [one.field for one in found] == fields
    assert all("\n" not in str(one) for one in found)


def test_a_route_without_its_kind_is_refused() -> None:
    service = _service(gateway={"httpRoute": {"gateway": "public"}})
    (refusal,) = refusals(service, settings=dataclasses.replace(SETTINGS, has_http_routes=False))
    assert str(refusal).startswith("spec.gateway.httpRoute: the cluster has no HTTPRoute; install")


# --- reading the object ----------------------------------------------------------------------------------------------


def test_a_service_is_read_from_the_clusters_object() -> None:
    body = {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": "tiny", "namespace": "team", "uid": "u", "generation": 4, "managedFields": []},
        "spec": {"model": {"uri": "bundled://m", "name": "m"}, "pools": {"prefill": {}, "decode": {}}},
        "status": {"conditions": []},
    }
    service = Service.of(body)
    assert (service.name, service.namespace, service.uid, service.spec.model.name) == ("tiny", "team", "u", "m")
    with pytest.raises(RenderError, match=r"spec\.model\.name"):
        Service.of({**body, "spec": {"model": {"uri": "bundled://m"}, "pools": {"decode": {}}}})


def test_a_missing_prefill_pool_is_named() -> None:
    with pytest.raises(RenderError, match=r"spec\.pools\.prefill is missing"):
        _service(pools={"decode": {}}).pool(Role.PREFILL)
