"""Security contexts of the profiles. `Restricted` passes the restricted level of Pod Security; `Rdma` adds IPC_LOCK."""

from __future__ import annotations

from proa_operator.api.security import Profile
from proa_operator.render.service import JsonObject

USER_ID = 65532


def pod_security(*, supplemental_groups: tuple[int, ...] = ()) -> JsonObject:
    """For the pod: never root, and volumes belong to its group."""
    security: JsonObject = {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",  # a changed owner on each of a checkpoint's files takes minutes
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if supplemental_groups:
        security["supplementalGroups"] = list(supplemental_groups)
    return security


def container_security(profile: Profile = Profile.RESTRICTED) -> JsonObject:
    """For each container."""
    capabilities: JsonObject = {"drop": ["ALL"]}
    if profile is Profile.RDMA:
        capabilities["add"] = ["IPC_LOCK"]  # pins memory for RDMA without a memlock limit
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": capabilities}
