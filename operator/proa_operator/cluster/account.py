"""The ServiceAccount that a token speaks for: the operator may not read it, but its token names it."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any


def owner_of(token: str | None) -> list[dict[str, Any]]:
    """Owner references that let an object go when the account does, as `helm uninstall` deletes it.

    Empty for other credentials. The claims are those of Kubernetes' bound tokens. Nothing is granted by them: a wrong
    one only makes an object that the garbage collector deletes.
    """
    account = _claims(token or "").get("kubernetes.io", {}).get("serviceaccount", {})
    if not {"name", "uid"} <= account.keys():
        return []
    return [{"apiVersion": "v1", "kind": "ServiceAccount", "name": account["name"], "uid": account["uid"]}]


def _claims(token: str) -> dict[str, Any]:
    """Of a JSON web token; empty for anything else."""
    head, _, rest = token.partition(".")
    payload = rest.partition(".")[0]
    try:
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return found if head and isinstance(found, dict) else {}
