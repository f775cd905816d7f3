"""Where the pods of a group may run."""

from __future__ import annotations

from dataclasses import dataclass

from proa_operator.api.accelerator import Accelerator, Partition
from proa_operator.api.placement import Toleration
from proa_operator.api.service import ServiceSpec
from proa_operator.render.metadata import Group
from proa_operator.render.service import JsonObject

HOSTNAME_KEY = "kubernetes.io/hostname"
AMD_PREFIX = "amd.com/"
_DEVICE_ID_KEY = "amd.com/gpu.device-id"
_PARTITION_KEY = "amd.com/compute-memory-partition"
_MEMORY_PARTITIONS = ("nps1", "nps2", "nps4", "nps8")
_FAILED_CHECKS = (
    "amd.com/cluster-validation-status",
    "amd.com/gpu-hw-acceptance",
    "amd.com/gpu-mesh-validation",
    "amd.com/nic-health",
    "amd.com/rail-bandwidth",
)
DEVICE_IDS: dict[str, tuple[str, ...]] = {
    "MI300A": ("74a0",),
    "MI300X": ("74a1", "74b5"),
    "MI308X": ("74a2",),
    "MI325X": ("74a5", "74b9"),
    "MI350X": ("75a0", "75b0"),
    "MI355X": ("75a3", "75b3"),
}
"""PCI device ids of whole GPUs and of their virtual functions, as AMD's node labeller writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRequirement:
    """A condition on a node's label; with `is_negated` the label may be absent, but not have one of the values."""

    key: str
    values: tuple[str, ...]
    is_negated: bool = False

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether a node with these labels may run the pod."""
        return (labels.get(self.key) in self.values) is not self.is_negated


def node_requirements(spec: ServiceSpec) -> tuple[NodeRequirement, ...]:
    """All label conditions: `placement.requireLabels`, product and partition, and checks that a node has failed."""
    required = spec.placement.require_labels
    given = tuple(NodeRequirement(key=key, values=(required[key],)) for key in sorted(required))
    return (*given, *_accelerator_requirements(spec.accelerator))


def _accelerator_requirements(accelerator: Accelerator | None) -> tuple[NodeRequirement, ...]:
    if accelerator is None or not accelerator.resource_name.startswith(AMD_PREFIX):
        return ()
    failed = (NodeRequirement(key=key, values=("failed",), is_negated=True) for key in _FAILED_CHECKS)
    device_ids = DEVICE_IDS.get(accelerator.product, ())
    product = (NodeRequirement(key=_DEVICE_ID_KEY, values=device_ids),) if device_ids else ()
    return (*product, _partition_requirement(accelerator.partition), *failed)


def _partition_requirement(partition: Partition) -> NodeRequirement:
    """The labeller writes partitions only when told to, so whole GPUs need no label."""
    if partition is Partition.SPX:
        others = [mode for mode in Partition if mode is not Partition.SPX]
        return NodeRequirement(key=_PARTITION_KEY, values=_modes(*others), is_negated=True)
    return NodeRequirement(key=_PARTITION_KEY, values=_modes(partition))


def _modes(*partitions: Partition) -> tuple[str, ...]:
    return tuple(f"{partition.value.lower()}_{memory}" for partition in partitions for memory in _MEMORY_PARTITIONS)


def placement(group: Group) -> JsonObject:
    """The fields nodeSelector, tolerations and affinity of a pod; absent where empty."""
    spec = group.service.spec
    fields = {
        "nodeSelector": dict(sorted(spec.placement.require_labels.items())),
        "tolerations": _tolerations(spec),
        "affinity": _affinity(group),
    }
    return {name: value for name, value in fields.items() if value}


def _tolerations(spec: ServiceSpec) -> list[JsonObject]:
    """The user's, and the taint that keeps other pods off GPU nodes."""
    found = [_toleration(toleration) for toleration in spec.placement.tolerations]
    if spec.accelerator is not None:
        own = {"key": spec.accelerator.resource_name, "operator": "Exists", "effect": "NoSchedule"}
        found += [own] if own not in found else []
    return found


def _toleration(toleration: Toleration) -> JsonObject:
    fields = toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {name: value for name, value in fields.items() if value != ""}


def _affinity(group: Group) -> JsonObject:
    spec = group.service.spec
    rules: JsonObject = {}
    if expressions := [_expression(rule) for rule in _accelerator_requirements(spec.accelerator)]:
        rules["nodeAffinity"] = {_REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}
    if spec.placement.topology_key:
        rules["podAffinity"] = {_REQUIRED: [_same_group(group, spec.placement.topology_key)]}
    if group.service.pool(group.role).nodes_per_group > 1:
        rules["podAntiAffinity"] = {_REQUIRED: [_same_group(group, HOSTNAME_KEY)]}
    return rules


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def _expression(rule: NodeRequirement) -> JsonObject:
    return {"key": rule.key, "operator": "NotIn" if rule.is_negated else "In", "values": list(rule.values)}


def _same_group(group: Group, topology_key: str) -> JsonObject:
    return {"labelSelector": {"matchLabels": group.selector}, "topologyKey": topology_key}
