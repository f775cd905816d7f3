"""Metadata and labels of children."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proa_operator import names
from proa_operator.api.service import API_VERSION, KIND
from proa_operator.names import Component, Role
from proa_operator.render.service import JsonObject, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One engine instance: the pods of one StatefulSet."""

    service: Service
    revision: str
    role: Role
    index: int

    @property
    def name(self) -> str:
        """Of its StatefulSet, Service and PDB."""
        return names.group_name(self.service.name, self.revision, self.role, self.index)

    @property
    def selector(self) -> dict[str, str]:
        """Labels that only its pods have."""
        return {names.SERVICE_LABEL: self.service.name, names.GROUP_LABEL: self.name}

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its objects and pods."""
        return (
            common_labels(self.service)
            | component_selector(self.service, Component.WORKER)
            | self.selector
            | {
                names.ROLE_LABEL: self.role.value,
                names.REVISION_LABEL: self.revision,
                names.GROUP_INDEX_LABEL: str(self.index),
                names.TOPOLOGY_LABEL: self.service.spec.topology.value,
            }
        )


def common_labels(service: Service) -> dict[str, str]:
    """On every child."""
    return {names.NAME_LABEL: "proa", names.MANAGED_BY_LABEL: names.MANAGER, names.SERVICE_LABEL: service.name}


def component_selector(service: Service, component: Component) -> dict[str, str]:
    """Selects all pods of a component of the service, of every revision."""
    return {names.SERVICE_LABEL: service.name, names.COMPONENT_LABEL: component.value}


def revision_selector(service: Service, revision: str) -> dict[str, str]:
    """Selects the workers of one revision."""
    return component_selector(service, Component.WORKER) | {names.REVISION_LABEL: revision}


def child(
    service: Service, api_version: str, kind: str, name: str, *, labels: Mapping[str, str] | None = None
) -> JsonObject:
    """A child object without its spec, owned by the service: deleting the service deletes it."""
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": service.name, "uid": service.uid, "controller": True}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": service.namespace,
            "labels": dict(sorted((common_labels(service) | dict(labels or {})).items())),
            "ownerReferences": [owner],
        },
    }
