"""Whose object the Lease is."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from proa_operator.cluster.account import owner_of

ACCOUNT = {"name": "proa", "uid": "0-1"}


def token(claims: Any) -> str:
    """A JSON web token as far as it is read: without padding, and nobody's signature."""
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{middle}.signature"


def test_a_bound_token_names_its_account() -> None:
    found = owner_of(token({"kubernetes.io": {"namespace": "x", "serviceaccount": ACCOUNT, "pod": {"uid": "2"}}}))
    assert found == [{"apiVersion": "v1", "kind": "ServiceAccount", "name": "proa", "uid": "0-1"}]


@pytest.mark.parametrize(
    "other",
    [None, "", "secret", "a.b.c", "a.%%%.c", token([1]), token({"sub": "x"}), token({"kubernetes.io": {}})],
)
def test_other_credentials_name_none(other: str | None) -> None:
    assert owner_of(other) == []
