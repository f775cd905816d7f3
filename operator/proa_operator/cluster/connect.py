"""Where the API server is and who we are: the pod's service account, or a kubeconfig outside of a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import aiohttp

from proa_operator.cluster.credentials import Credentials
from proa_operator.errors import StartError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_SECONDS = 60.0  # the kubelet writes a new token long before the old one ends


def connection(environment: Mapping[str, str]) -> Credentials:
    """Credentials as they are now; StartError when there are none.

    The address comes from the pod's environment, not from DNS: the operator has to come up before the cluster's DNS.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (ACCOUNT / "token").exists():
        address = f"[{host}]" if ":" in host else host
        return Credentials(
            server=f"https://{address}:{port}",
            ca_path=str(ACCOUNT / "ca.crt"),
            token=(ACCOUNT / "token").read_text().strip(),
        )
    return _from_kubeconfig()


def _from_kubeconfig() -> Credentials:
    """As kopf reads it: for an operator on a developer's machine."""
    import kopf  # its import takes a second, and a command of `proa` reads kubeconfigs by itself

    found = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    if found is None:
        raise StartError("no cluster: run in a pod with a service account, or set KUBECONFIG to a kubeconfig file")
    known: dict[str, Any] = {field.name: getattr(found, field.name) for field in fields(Credentials)}
    return Credentials(**known)


class Connection:
    """One HTTP session to the API server, with a token that is read again as the kubelet renews it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment
        self._info = connection(environment)
        self._read_at = 0.0
        self.server = self._info.server.rstrip("/")

    def session(self, most_connections: int = 64) -> aiohttp.ClientSession:
        """Open; the caller closes it. 0 is any number of connections."""
        connector = aiohttp.TCPConnector(ssl=self._info.ssl_context(), limit=most_connections)
        return aiohttp.ClientSession(connector=connector)

    def headers(self, now: float) -> dict[str, str]:
        """Authorization at `now` on a monotonic clock."""
        if now - self._read_at >= _TOKEN_SECONDS:
            self._info, self._read_at = connection(self._environment), now
        return self._info.headers()
