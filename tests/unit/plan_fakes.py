"""A renderer whose objects hold no more than the planner's tests read, and services to plan."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from proa_operator import names
from proa_operator.api.service import DisaggregatedService, ServiceSpec
from proa_operator.names import Role
from proa_operator.plan.renderer import NodeRule, Objects
from proa_operator.plan.state import Observed
from proa_operator.plan.topology import num_pods_of, replicas_of
from proa_operator.render import node_requirements


def service(*, prefill: int | None = 2, decode: int = 2, model: str = "bundled://tiny", **fields: Any) -> Any:
    """A valid service; `fields` are camelCase parts of the spec, merged over it."""
    pools: dict[str, Any] = {"decode": {"replicas": decode}}
    if prefill is not None:
        pools["prefill"] = {"replicas": prefill}
    spec = {"model": {"uri": model, "name": "m"}, "engine": {"type": "sim"}, "pools": pools}
    body = {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": "s", "namespace": "n"},
        "spec": _merged(spec, fields),
    }
    return DisaggregatedService.model_validate_json(json.dumps(body))


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            continue
        merged[key] = _merged(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


@dataclass(frozen=True)
class FakeRenderer:
    """Revision = digest over model, engine arguments and topology."""

    refused: tuple[str, ...] = ()

    def revision_of(self, spec: ServiceSpec, *, template_version: int | None, restart: str) -> str:
        text = f"{spec.model.uri} {spec.engine.args} {spec.topology} {template_version or 1} {restart}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def group(self, observed: Observed, spec: ServiceSpec, *, revision: str, role: Role, index: int) -> Objects:
        name = names.group_name("s", revision, role, index)
        body = {
            "revision": revision,
            "role": role,
            "index": index,
            "numPods": num_pods_of(spec, role),
            "gpus": spec.accelerator.gpus_per_pod if spec.accelerator else 0,
        }
        return (thing("StatefulSet", name, body), thing("Service", name), thing("PodDisruptionBudget", name))

    def revision(
        self, observed: Observed, spec: ServiceSpec, *, revision: str, number: int, template_version: int | None
    ) -> Objects:
        return (thing("ControllerRevision", f"s-{revision}", {"number": number}),)

    def policies(self, observed: Observed, spec: ServiceSpec, *, revision: str) -> Objects:
        return (thing("NetworkPolicy", f"s-{revision}-kv"),)

    def gateway(self, observed: Observed, spec: ServiceSpec) -> Objects:
        return (thing("Deployment", "s-gateway", {"topology": spec.topology}),)

    def service(self, observed: Observed) -> Objects:
        return tuple(thing("WorkerPool", f"s-{role.value}") for role in replicas_of(observed.service.spec))

    def download(self, observed: Observed) -> Objects:
        uri = observed.service.spec.model.uri
        return (thing("Job", f"s-model-{uri[-1]}"),) if uri.startswith("hf://") else ()

    def refusals(self, observed: Observed) -> tuple[str, ...]:
        return self.refused

    def unscraped(self, observed: Observed) -> str:
        return ""

    def node_rules(self, spec: ServiceSpec) -> tuple[NodeRule, ...]:
        return node_requirements(spec)


def thing(kind: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "body": body or {}}
