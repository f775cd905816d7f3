"""Environment of a worker: identity, caches, the table for AMD GPUs, then the manifest's own, which wins."""

from __future__ import annotations

from proa_operator import names
from proa_operator.api.engine import EngineType
from proa_operator.api.kv_transfer import Backend
from proa_operator.api.service import ServiceSpec
from proa_operator.render.digest import digest8
from proa_operator.render.metadata import Group
from proa_operator.render.placement import AMD_PREFIX
from proa_operator.render.service import JsonObject

CACHE_ROOT = "/cache"
TMP_ROOT = "/tmp"
POD_IP = "$(POD_IP)"  # the kubelet expands these in a container's args
POD_NAME = "$(POD_NAME)"
POD_INDEX = "$(POD_INDEX)"
_CACHES = {
    "XDG_CACHE_HOME": "xdg",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "AITER_JIT_DIR": "aiter",
    "VLLM_CACHE_ROOT": "vllm",
}

_AMD_ALWAYS = {"HSA_ENABLE_SDMA": "1", "HSA_FORCE_FINE_GRAIN_PCIE": "1"}
_AMD_SEVERAL_NODES = {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
_AMD_MORI = {"MORI_SHMEM_HEAP_SIZE": "16GiB", "MORI_DISABLE_TOPO": "1", "NCCL_IB_DISABLE": "1"}
_AMD_VLLM = {
    "VLLM_ROCM_USE_AITER": "1",
    "VLLM_ROCM_USE_AITER_MOE": "1",
    "VLLM_ROCM_USE_AITER_MLA": "1",
    "VLLM_ROCM_USE_AITER_RMSNORM": "1",
    "VLLM_ROCM_USE_AITER_LINEAR": "0",
    "VLLM_ROCM_USE_SKINNY_GEMM": "0",
    "VLLM_ENGINE_READY_TIMEOUT_S": "7200",
}


def worker_env(group: Group, *, image: str) -> list[JsonObject]:
    """Sorted by origin; a later variable replaces an earlier one of its name."""
    spec = group.service.spec
    plain = {"HOME": TMP_ROOT, "SMG_PAIRING_PROTOCOL": group.revision}
    plain |= _cache_env(spec, image) | _amd_env(group)
    plain |= {variable.name: variable.value for variable in spec.engine.env}
    identity = {name: value for name, value in _IDENTITY.items() if name not in plain}
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in identity.items()),
        *({"name": name, "value": value} for name, value in plain.items()),
    ]


_IDENTITY = {
    "POD_NAME": "metadata.name",
    "POD_IP": "status.podIP",
    "POD_INDEX": f"metadata.labels['{names.POD_INDEX_LABEL}']",
}


def _cache_env(spec: ServiceSpec, image: str) -> dict[str, str]:
    """Compiled kernels are good for one image, GPU and model only, so each combination has a folder of its own."""
    accelerator = spec.accelerator
    hardware = [accelerator.product, accelerator.partition.value] if accelerator else []
    folder = f"{CACHE_ROOT}/{digest8([image, *hardware, spec.model.uri])}"
    return {name: f"{folder}/{leaf}" for name, leaf in _CACHES.items()}


def _amd_env(group: Group) -> dict[str, str]:
    """Settings of AMD's published recipes for wide expert parallelism on MI300X and MI355X; not measured here."""
    spec = group.service.spec
    if spec.accelerator is None or not spec.accelerator.resource_name.startswith(AMD_PREFIX):
        return {}
    env = dict(_AMD_ALWAYS)
    if group.service.pool(group.role).nodes_per_group > 1:
        env |= _AMD_SEVERAL_NODES
    if spec.kv_transfer.backend is Backend.MORI:
        env |= _AMD_MORI
    if spec.engine.type is EngineType.VLLM:
        env |= _AMD_VLLM
    return env
