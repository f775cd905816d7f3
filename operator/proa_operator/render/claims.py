"""Volume claims that all groups of a service share."""

from __future__ import annotations

from proa_operator import names
from proa_operator.names import Component
from proa_operator.render.digest import digest8
from proa_operator.render.metadata import child, component_selector
from proa_operator.render.model_source import is_downloaded, model_claim
from proa_operator.render.service import JsonObject, Service

JIT_SIZE = "20Gi"


def jit_claim(service: Service) -> str:
    """Claim of compiled kernels."""
    return names.jit_name(service.name, digest8(service.spec.model.cache.storage_class))


def claims(service: Service) -> list[JsonObject]:
    """For a downloaded checkpoint, and for compiled kernels where there is an accelerator."""
    cache = service.spec.model.cache
    found = []
    if is_downloaded(service.spec):
        found.append(_claim(service, model_claim(service), cache.size, Component.DOWNLOAD))
    if service.spec.accelerator is not None:
        found.append(_claim(service, jit_claim(service), JIT_SIZE, Component.WORKER))
    return found


def _claim(service: Service, name: str, size: str, component: Component) -> JsonObject:
    """Written and read from several nodes, so the class must offer ReadWriteMany."""
    claim = child(service, "v1", "PersistentVolumeClaim", name, labels=component_selector(service, component))
    claim["spec"] = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}}
    if service.spec.model.cache.storage_class:
        claim["spec"]["storageClassName"] = service.spec.model.cache.storage_class
    return claim
