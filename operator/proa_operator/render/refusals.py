"""What a manifest may ask for and this cluster or the chosen engine cannot do: refused with the fix, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proa_operator.api.accelerator import Accelerator
from proa_operator.api.engine import EngineType
from proa_operator.api.engine_limits import engine_limits
from proa_operator.api.kv_transfer import Backend
from proa_operator.api.pools import Pool
from proa_operator.names import WORKER_CONTAINER, Role
from proa_operator.render.errors import RenderError
from proa_operator.render.group import group_objects
from proa_operator.render.placement import AMD_PREFIX, DEVICE_IDS
from proa_operator.render.service import Service
from proa_operator.render.settings import RenderSettings

_ANY_REVISION = "00000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One field that cannot be honoured; empty for the whole spec, when the message names the field."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


def refusals(service: Service, *, settings: RenderSettings) -> tuple[Refusal, ...]:
    """All that is wrong with a service which its schema and rules let through; empty when it can be rendered."""
    found = [Refusal(field=f"spec.{field}", message=message) for field, message in _spec_refusals(service, settings)]
    for role in service.roles:
        try:
            group_objects(service, revision=_ANY_REVISION, role=role, index=0, settings=settings)
        except RenderError as error:
            found.append(Refusal(field="", message=str(error)))
    return tuple(dict.fromkeys(found))


def _spec_refusals(service: Service, settings: RenderSettings) -> Iterator[tuple[str, str]]:
    spec = service.spec
    if spec.security.mtls:
        yield "security.mtls", "is not available yet; set false and keep networkPolicy Strict"
    if spec.gateway.http_route.gateway and not settings.has_http_routes:
        yield "gateway.httpRoute", "the cluster has no HTTPRoute; install the Gateway API's CRDs, or remove the field"
    yield from _accelerator_refusals(spec.accelerator)
    if spec.engine.type is EngineType.VLLM and not all(_has_own_command(service.pool(role)) for role in service.roles):
        yield (
            "engine.type",
            (
                "proa-worker does not run vllm yet; set native or sim, or give each pool's podTemplate "
                "a container worker with a command that takes proa-worker's flags"
            ),
        )
    if spec.engine.type is not EngineType.VLLM and spec.kv_transfer.backend in (Backend.NIXL, Backend.MORI):
        engine, backend = spec.engine.type.value, spec.kv_transfer.backend.value
        yield "kvTransfer.backend", f"engine {engine} moves KV blocks by tcp, not by {backend}; set auto or tcp"
    yield from engine_limits(spec)
    if spec.engine.type is EngineType.NATIVE:
        for role in service.roles:
            for field, message in _native_pool_refusals(service.pool(role)):
                yield f"pools.{Role(role).value}.{field}", message


def _has_own_command(pool: Pool) -> bool:
    """The manifest brings a program of its own for the engine's container."""
    containers = (pool.pod_template.get("spec") or {}).get("containers") or ()
    named = (one for one in containers if isinstance(one, dict) and one.get("name") == WORKER_CONTAINER)
    return any(one.get("command") for one in named)


def _accelerator_refusals(accelerator: Accelerator | None) -> Iterator[tuple[str, str]]:
    if accelerator is None or not accelerator.resource_name.startswith(AMD_PREFIX):
        return
    if accelerator.product not in DEVICE_IDS:
        known = ", ".join(sorted(DEVICE_IDS))
        yield "accelerator.product", f"{accelerator.product} is not known; use one of {known}"


def _native_pool_refusals(pool: Pool) -> Iterator[tuple[str, str]]:
    if pool.nodes_per_group > 1:
        yield "nodesPerGroup", "engine native runs within one pod for now; set 1"
    for name in ("tp", "pp", "cp", "dp", "ep"):
        if getattr(pool.parallelism, name) > 1:
            yield f"parallelism.{name}", "engine native is one process on one device for now; set 1"
