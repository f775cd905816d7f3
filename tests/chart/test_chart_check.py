"""What `helm test` says of an installation: the program of the test pod against answers of an API server."""

from __future__ import annotations

import importlib.util
import urllib.error
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "charts" / "proa" / "files" / "check_installation.py"
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
FRESH = {"spec": {"holderIdentity": "proa-0", "renewTime": "2026-01-31T11:59:50.000000Z"}}
OLD = {"spec": {"holderIdentity": "proa-0", "renewTime": "2026-01-31T11:50:00.000000Z"}}
FREE = {"spec": {"holderIdentity": "", "renewTime": "2026-01-31T11:59:59.000000Z"}}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_installation", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("LEASE", "proa-system/proa")
    monkeypatch.setenv("WATCHED", "team")
    return module


@pytest.mark.parametrize(
    ("services", "lease", "said"),
    [
        ({}, FRESH, ""),
        (404, FRESH, "the operator cannot list services in team (404): install the chart proa-crds"),
        (403, FRESH, "the operator cannot list services in team (403): see the chart's rbac.mode and watchNamespaces"),
        ({}, 404, "no operator leads (Lease proa: 404): look at `kubectl logs deployment/proa`"),
        ({}, OLD, "the Lease proa is 600 s old: look at `kubectl logs deployment/proa`"),
        ({}, FREE, "the Lease proa has no holder: look at `kubectl logs deployment/proa`"),
    ],
)
def test_what_is_missing(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, services: Any, lease: Any, said: str
) -> None:
    def get(path: str) -> dict[str, Any]:
        answer = services if "/namespaces/team/disaggregatedservices" in path else lease
        assert answer is services or path.endswith("/namespaces/proa-system/leases/proa")
        if isinstance(answer, int):
            raise urllib.error.HTTPError(path, answer, "refused", Message(), None)
        found: dict[str, Any] = answer
        return found

    monkeypatch.setattr(check, "get", get)
    assert check.problem(NOW) == said
