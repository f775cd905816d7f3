"""The API server's audit log: who asked for what, and what was answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

# The bed's own components are left out: they would be most of the log, and no test judges them.
OWN_USERS = ("system:apiserver", "system:kube-scheduler", "system:kube-controller-manager", "system:kube-proxy", "kwok")
OWN_GROUPS = ("system:nodes", "system:serviceaccounts:kube-system")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One finished request; `resource` is "pods" or "pods/status", `group` is "" for the core API."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int
    received: str
    user_agent: str


def audit_policy() -> str:
    """The policy file's text: metadata of every finished request that is not one of the bed's own."""
    rules: list[dict[str, object]] = [
        {"level": "None", "users": list(OWN_USERS)},
        {"level": "None", "userGroups": list(OWN_GROUPS)},
        {"level": "Metadata"},
    ]
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
    return json.dumps(policy)


def read_audit(path: Path) -> list[AuditEvent]:
    """All finished requests in the log, oldest first; a watch is there once it has ended."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # the last line may still be being written
    events = [json.loads(line) for line in whole.splitlines()]
    return [_event(event) for event in events if event["stage"] == "ResponseComplete"]


def _event(event: dict[str, dict[str, str]]) -> AuditEvent:
    what = event.get("objectRef", {})
    resource = what.get("resource", "")
    return AuditEvent(
        user=event["user"]["username"],
        verb=str(event["verb"]),
        group=what.get("apiGroup", ""),
        resource=f"{resource}/{what['subresource']}" if "subresource" in what else resource,
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        code=int(event.get("responseStatus", {}).get("code", 0)),
        received=str(event["requestReceivedTimestamp"]),
        user_agent=str(event.get("userAgent", "")),
    )
