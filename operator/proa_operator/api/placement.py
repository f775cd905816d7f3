"""Where pods may run."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from proa_operator.api.noun import Noun


class TolerationOperator(StrEnum):
    """`Exists` matches any value."""

    EQUAL = "Equal"
    EXISTS = "Exists"


class Toleration(Noun):
    """A taint that the pods may sit on, as in a pod's spec."""

    key: str = ""
    """Key of the taint; empty with Exists matches all."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """Equal or Exists."""
    value: str = ""
    """Value of the taint."""
    effect: str = ""
    """NoSchedule, PreferNoSchedule or NoExecute; empty matches all."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is tolerated; absent is for ever."""


class Placement(Noun):
    """Node labels, tolerations, topology and secondary networks."""

    require_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that the pods may sit on."""
    topology_key: str = ""
    """Node label whose value all pods of one group must share, such as a rack's."""
    networks: tuple[str, ...] = ()
    """Network attachments for RDMA, as NAMESPACE/NAME."""
