"""Run by `helm test` with the operator's own rights: the kinds exist, and some operator pod leads."""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
DEADLINE_SECONDS = 90
FRESH_SECONDS = 60


def get(path: str) -> dict[str, Any]:
    """An object of the API server; raises urllib.error.HTTPError or URLError."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    with open(f"{ACCOUNT}/token") as file:
        request = urllib.request.Request(f"https://{host}:{port}{path}")
        request.add_header("Authorization", f"Bearer {file.read()}")
    trust = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    with urllib.request.urlopen(request, context=trust, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def problem(now: datetime) -> str:
    """What is missing, with the fix; empty when nothing is."""
    try:
        get(f"/apis/proa.dev/v1alpha1/namespaces/{os.environ['WATCHED']}/disaggregatedservices?limit=1")
    except urllib.error.HTTPError as error:
        fix = "install the chart proa-crds" if error.code == 404 else "see the chart's rbac.mode and watchNamespaces"
        return f"the operator cannot list services in {os.environ['WATCHED']} ({error.code}): {fix}"
    namespace, name = os.environ["LEASE"].split("/")
    try:
        lease = get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")["spec"]
    except urllib.error.HTTPError as error:
        return f"no operator leads (Lease {name}: {error.code}): look at `kubectl logs deployment/{name}`"
    if not lease.get("holderIdentity"):
        return f"the Lease {name} has no holder: look at `kubectl logs deployment/{name}`"
    age = (now - datetime.fromisoformat(lease.get("renewTime") or "1970-01-01T00:00:00Z")).total_seconds()
    if age > FRESH_SECONDS:
        return f"the Lease {name} is {age:.0f} s old: look at `kubectl logs deployment/{name}`"
    return ""


def main() -> int:
    """0 when the installation works within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            found = problem(datetime.now(UTC))
        except urllib.error.URLError as error:
            found = f"the API server does not answer: {error.reason}"
        if not found or time.monotonic() > deadline:
            print(found or "the kinds are installed and an operator leads", file=sys.stderr if found else sys.stdout)
            return 1 if found else 0
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
