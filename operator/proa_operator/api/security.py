"""How far the pods are locked down."""

from __future__ import annotations

from enum import StrEnum

from proa_operator.api.noun import Noun


class Profile(StrEnum):
    """`Restricted` passes the restricted Pod Security level, `Rdma` adds only what RDMA needs."""

    RESTRICTED = "Restricted"
    RDMA = "Rdma"


class NetworkPolicy(StrEnum):
    """`Strict` renders policies that allow the known flows only."""

    STRICT = "Strict"
    DISABLED = "Disabled"


class Security(Noun):
    """Pod security profile, network policies and encryption between the parts."""

    profile: Profile = Profile.RESTRICTED
    """Restricted passes the restricted Pod Security level, Rdma adds only what RDMA needs."""
    network_policy: NetworkPolicy = NetworkPolicy.STRICT
    """Strict lets only the known flows through."""
    mtls: bool = False
    """Encrypt and authenticate gateway, workers and operator with certificates."""
