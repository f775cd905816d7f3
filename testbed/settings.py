"""What may differ between two beds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BedSettings:
    """Times in seconds. A lost node is noticed after `node_grace_seconds`, which must be several lease renewals."""

    services: str = "10.96.0.0/16"
    pods: str = "10.244.0.0/16"
    lease_seconds: int = 40  # of played nodes; they renew four times in it: 2000 nodes want 200
    node_grace_seconds: int = 40
    client_qps: int = 300  # of controller manager and scheduler
    num_volumes: int = 32

    @property
    def api_service_ip(self) -> str:
        """First address of the service range: the Service `kubernetes`."""
        return self.services.partition("/")[0].rpartition(".")[0] + ".1"
