"""What a manifest may ask of a cluster and local mode cannot do: refused, or named once and left out."""

from __future__ import annotations

from collections.abc import Iterator

from proa_operator.api.engine import EngineType
from proa_operator.api.engine_limits import engine_limits
from proa_operator.api.kv_transfer import Backend
from proa_operator.api.noun import Noun
from proa_operator.api.pools import Pool
from proa_operator.api.service import ServiceSpec
from proa_operator.errors import PlanError

_CLUSTER_ONLY: tuple[tuple[str, ...], ...] = (
    ("engine", "image"),
    ("model", "cache"),
    ("model", "tokenSecretRef"),
    ("rollout",),
    ("health",),
    ("gateway", "tls"),
    ("gateway", "apiKeySecretRef"),
    ("gateway", "httpRoute"),
    ("security",),
    ("placement",),
    ("pools", "prefill", "podTemplate"),
    ("pools", "decode", "podTemplate"),
)


def refuse(spec: ServiceSpec) -> None:
    """Raises PlanError for the first thing that changes what is served and that local mode cannot do."""
    for field, reason in _refusals(spec):
        raise PlanError(f"spec.{field}: {reason}")


def cluster_only(spec: ServiceSpec) -> list[str]:
    """Fields of the manifest that mean something in a cluster only, as dotted paths below spec."""
    return [".".join(path) for path in _CLUSTER_ONLY if _is_given(spec, path)]


def _refusals(spec: ServiceSpec) -> Iterator[tuple[str, str]]:
    if spec.engine.type is EngineType.VLLM:
        yield "engine.type", "proa up does not run vllm yet; set native or sim"
    if spec.kv_transfer.backend in (Backend.NIXL, Backend.MORI):
        backend = spec.kv_transfer.backend.value
        yield "kvTransfer.backend", f"proa up moves KV blocks by shm or tcp, not by {backend}; set auto, shm or tcp"
    for name, pool in (("prefill", spec.pools.prefill), ("decode", spec.pools.decode)):
        if pool is not None:
            yield from ((f"pools.{name}.{field}", reason) for field, reason in _pool_refusals(pool))
    yield from engine_limits(spec)


def _pool_refusals(pool: Pool) -> Iterator[tuple[str, str]]:
    size = pool.parallelism
    if pool.nodes_per_group > 1:
        yield "nodesPerGroup", "proa up has one machine; set 1"
    for name in ("tp", "pp", "cp", "dp", "ep"):
        if getattr(size, name) > 1:
            yield f"parallelism.{name}", "a local worker is one process on one device for now; set 1"


def _is_given(spec: ServiceSpec, path: tuple[str, ...]) -> bool:
    found: object = spec
    for yaml_name in path:
        if not isinstance(found, Noun):
            return False
        given = {
            field.alias: name for name, field in type(found).model_fields.items() if name in found.model_fields_set
        }
        if yaml_name not in given:
            return False
        found = getattr(found, given[yaml_name])
    return True
