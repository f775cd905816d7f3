"""What the chart's `modelDownload` says reaches the operator's settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from proa_operator.cli.operator_settings import settings_of

CI = Path(__file__).parents[2] / "charts" / "proa" / "ci"
Rendered = list[dict[str, Any]]


def _settings(objects: Rendered) -> Any:
    return settings_of(next(one for one in objects if one["kind"] == "Deployment"))


def test_mirror_proxy_and_authorities_reach_the_operator(render: Callable[..., Rendered]) -> None:
    found = _settings(render(f"--values={CI / '05-private-registry.yaml'}"))
    assert found.download_ca == "company-ca"
    assert found.download_env == {
        "HF_ENDPOINT": "https://mirror.example",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "NO_PROXY": ".example,registry.local",
    }


def test_without_values_nothing_is_set(render: Callable[..., Rendered]) -> None:
    found = _settings(render())
    assert (found.download_ca, found.download_env) == ("", {})
