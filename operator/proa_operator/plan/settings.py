"""Times and names that are the same for all services of an operator. Seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Defaults suit a cluster; tests of the shell make them shorter."""

    settle_seconds: float = 10.0
    """From the cordon of a worker until the gateway surely sends it nothing: smg takes 6.3 s."""
    probe_retry_seconds: float = 10.0
    """Pause after a failed probe transfer."""
    restart_first_seconds: float = 30.0
    """Pause before the second restart in a row of a group; doubles each time. The first is immediate."""
    restart_most_seconds: float = 600.0
    """The pause never grows beyond this."""
    restart_forget_seconds: float = 1200.0
    """A group that lasted this long since its last restart starts to count anew."""
    regate_seconds: float = 15.0
    """A group that is only partly bound gives its nodes back after this long."""
    crash_limit: int = 6
    """Restarts of one group of a new revision, or of its containers, after which the rollout has failed."""
    analysis_requests: int = 50
    """Fewer finished requests of the new revision say nothing about its error rate or TTFT."""
    keep_revisions: int = 5
    """ControllerRevisions to keep besides those in use."""
    unhealthy_taints: tuple[str, ...] = (
        "amd-gpu-unhealthy",
        "amd-dcm",
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/unreachable",
    )
    """Groups leave a node with such a taint, whatever they tolerate."""
    device_resources: tuple[str, ...] = ("amd.com/nic", "amd.com/vnic")
    """Besides the accelerator: a node that offers less than its capacity of one has a broken device."""
