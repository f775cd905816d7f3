"""The pod template of a group."""

from __future__ import annotations

from proa_operator import names
from proa_operator.api.accelerator import Accelerator
from proa_operator.api.security import Profile
from proa_operator.api.service import ServiceSpec
from proa_operator.names import WORKER_PORTS
from proa_operator.render.claims import jit_claim
from proa_operator.render.env import CACHE_ROOT, TMP_ROOT, worker_env
from proa_operator.render.errors import RenderError
from proa_operator.render.metadata import Group
from proa_operator.render.model_source import MODEL_ROOT, MODEL_VOLUME, ModelSource, model_source
from proa_operator.render.placement import placement
from proa_operator.render.probes import worker_probes
from proa_operator.render.security import container_security, pod_security
from proa_operator.render.service import JsonObject
from proa_operator.render.settings import RenderSettings
from proa_operator.render.worker_command import PROGRAM, worker_args

AFTER_DRAIN_SECONDS = 30  # a worker ends its drain by itself; this is for closing connections and a stuck one
_HOST_POOL_SHM = "2Gi"
"""On a CPU the KV pool is a file there: 1 GiB by default (`--kv-cache-memory`), one block more, and torch's own."""
NETWORKS_ANNOTATION = "k8s.v1.cni.cncf.io/networks"


def worker_template(group: Group, settings: RenderSettings) -> JsonObject:
    """Pod template before the pool's own `podTemplate` is merged over it."""
    spec = group.service.spec
    source = model_source(group.service, settings)
    accelerator = spec.accelerator
    pod: JsonObject = {
        "automountServiceAccountToken": False,
        # NOTE: a Service called proa would else set PROA_* variables, which the worker refuses as unknown settings.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.drain.timeout_seconds + AFTER_DRAIN_SECONDS,
        "schedulingGates": [{"name": names.GANG_GATE}],
        "readinessGates": [{"conditionType": names.ROUTABLE_CONDITION}],
        "securityContext": pod_security(supplemental_groups=settings.device_groups if accelerator else ()),
        **placement(group),
        "containers": [_container(group, settings, source)],
        "volumes": _volumes(group, source),
    }
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    meta: JsonObject = {"labels": dict(sorted(group.labels.items()))}
    if spec.placement.networks:
        meta["annotations"] = {NETWORKS_ANNOTATION: ",".join(spec.placement.networks)}
    return {"metadata": meta, "spec": pod}


def engine_image(spec: ServiceSpec, settings: RenderSettings) -> str:
    """The manifest's image, or the chart's for the engine. RenderError when there is neither."""
    image = spec.engine.image or settings.engine_images.get(spec.engine.type, "")
    if not image:
        engine = spec.engine.type.value
        raise RenderError(f"spec.engine.image is empty and the chart sets no image for {engine}: give one of them")
    return image


def _container(group: Group, settings: RenderSettings, source: ModelSource) -> JsonObject:
    spec = group.service.spec
    image = engine_image(spec, settings)
    return {
        "name": names.WORKER_CONTAINER,
        "image": image,
        "imagePullPolicy": settings.pull_policy,
        "command": [PROGRAM],
        "args": worker_args(group, model=source.path),
        "env": worker_env(group, image=image),
        "ports": [{"name": port.value, "containerPort": number} for port, number in WORKER_PORTS.items()],
        "resources": _resources(spec, settings),
        "securityContext": container_security(spec.security.profile),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(source),
        **worker_probes(has_accelerator=spec.accelerator is not None),
    }


def _resources(spec: ServiceSpec, settings: RenderSettings) -> JsonObject:
    """No limits on CPU and memory: a throttled or killed engine costs more than a busy neighbour."""
    accelerator = spec.accelerator
    if accelerator is None:
        return {"requests": {"cpu": "250m", "memory": "512Mi"}}
    devices = _devices(spec, accelerator, settings)
    host = {"cpu": str(4 * accelerator.gpus_per_pod), "memory": f"{32 * accelerator.gpus_per_pod}Gi"}
    return {"requests": {**host, **devices}, "limits": devices}


def _devices(spec: ServiceSpec, accelerator: Accelerator, settings: RenderSettings) -> dict[str, str]:
    devices = {accelerator.resource_name: str(accelerator.gpus_per_pod)}
    rdma = accelerator.rdma_resource_name or settings.rdma_resource
    if spec.security.profile is Profile.RDMA and rdma:
        num_rails = len(spec.placement.networks) or accelerator.gpus_per_pod
        devices[rdma] = str(num_rails)
    return devices


def _volumes(group: Group, source: ModelSource) -> list[JsonObject]:
    accelerator = group.service.spec.accelerator
    shm_size = f"{16 * accelerator.gpus_per_pod}Gi" if accelerator else _HOST_POOL_SHM
    cache: JsonObject = {"emptyDir": {}}
    if accelerator is not None:
        cache = {"persistentVolumeClaim": {"claimName": jit_claim(group.service)}}
    volumes: list[JsonObject] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm_size}},
        {"name": "cache", **cache},
    ]
    return volumes if source.volume is None else [*volumes, source.volume]


def _mounts(source: ModelSource) -> list[JsonObject]:
    mounts: list[JsonObject] = [
        {"name": "tmp", "mountPath": TMP_ROOT},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "cache", "mountPath": CACHE_ROOT},
    ]
    if source.volume is None:
        return mounts
    return [*mounts, {"name": MODEL_VOLUME, "mountPath": MODEL_ROOT, "readOnly": True}]
