"""Settings of the operator, from environment variables that the chart sets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proa_operator.api.engine import EngineType
from proa_operator.errors import StartError
from proa_operator.render import PodSelector, RenderSettings

PREFIX = "PROA_"
_KNOWN = (
    "PROA_OPERATOR_IMAGE",
    "PROA_OPERATOR_NAMESPACE",
    "PROA_OPERATOR_LABELS",
    *(f"PROA_ENGINE_IMAGE_{engine.name}" for engine in EngineType),
    "PROA_IMAGE_PULL_POLICY",
    "PROA_IMAGE_PULL_SECRETS",
    "PROA_WATCH_NAMESPACES",
    "PROA_PROMETHEUS_SELECTOR",
    "PROA_PROMETHEUS_URL",
    "PROA_DOWNLOAD_ENV",
    "PROA_DOWNLOAD_CA",
    "PROA_RDMA_RESOURCE",
    "PROA_DEVICE_GROUPS",
    "PROA_LEASE_NAME",
    "PROA_POD_NAME",
    "PROA_LOG_FORMAT",
    "PROA_HEALTH_PORT",
    "PROA_METRICS_PORT",
)
_DOWNLOAD_ENV = ("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
_LOG_FORMATS = ("json", "text")
_PULL_POLICIES = ("IfNotPresent", "Always", "Never")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the process is told."""

    operator_image: str
    operator_namespace: str
    pod_name: str
    """Identity in the lease."""
    lease_name: str = "proa"
    operator_labels: Mapping[str, str] = field(default_factory=dict)
    engine_images: Mapping[EngineType, str] = field(default_factory=dict)
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    """Watched ones; empty is all of them."""
    prometheus: PodSelector = field(default_factory=PodSelector)
    prometheus_url: str = ""
    """Root of its HTTP API; empty: nothing scales."""
    download_env: Mapping[str, str] = field(default_factory=dict)
    download_ca: str = ""
    rdma_resource: str = ""
    device_groups: tuple[int, ...] = (44, 109)
    log_format: str = "json"
    health_port: int = 8081
    """0 in tests: any free one."""
    metrics_port: int = 9090

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """StartError with one line for unknown names, missing ones and bad values."""
        unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in _KNOWN)
        if unknown:
            raise StartError(f"unknown settings {', '.join(unknown)}: remove them, or use one of {', '.join(_KNOWN)}")
        given = {name: environment.get(name, "") for name in _KNOWN}
        return cls(
            operator_image=_required(given, "PROA_OPERATOR_IMAGE"),
            operator_namespace=_required(given, "PROA_OPERATOR_NAMESPACE"),
            pod_name=_required(given, "PROA_POD_NAME"),
            lease_name=given["PROA_LEASE_NAME"] or "proa",
            operator_labels=_labels("PROA_OPERATOR_LABELS", given["PROA_OPERATOR_LABELS"]),
            engine_images=_engine_images(given),
            pull_policy=_choice(given, "PROA_IMAGE_PULL_POLICY", _PULL_POLICIES),
            pull_secrets=_words(given["PROA_IMAGE_PULL_SECRETS"]),
            namespaces=_words(given["PROA_WATCH_NAMESPACES"]),
            prometheus=_selector(given["PROA_PROMETHEUS_SELECTOR"]),
            prometheus_url=_url(given, "PROA_PROMETHEUS_URL"),
            download_env=_download_env(given["PROA_DOWNLOAD_ENV"]),
            download_ca=given["PROA_DOWNLOAD_CA"],
            rdma_resource=given["PROA_RDMA_RESOURCE"],
            device_groups=_numbers(given, "PROA_DEVICE_GROUPS", "44,109"),
            log_format=_choice(given, "PROA_LOG_FORMAT", _LOG_FORMATS),
            health_port=_port(given, "PROA_HEALTH_PORT", 8081),
            metrics_port=_port(given, "PROA_METRICS_PORT", 9090),
        )

    def render(self, *, has_pod_monitors: bool, has_http_routes: bool) -> RenderSettings:
        """What the renderer needs of it, with what the cluster was found to know."""
        return RenderSettings(
            operator_image=self.operator_image,
            engine_images=self.engine_images,
            operator_namespace=self.operator_namespace,
            operator_labels=self.operator_labels,
            prometheus=self.prometheus,
            pull_policy=self.pull_policy,
            pull_secrets=self.pull_secrets,
            has_pod_monitors=has_pod_monitors,
            has_http_routes=has_http_routes,
            download_env=self.download_env,
            download_ca=self.download_ca,
            rdma_resource=self.rdma_resource,
            device_groups=self.device_groups,
            is_cluster_wide=not self.namespaces,
        )


def _required(given: Mapping[str, str], name: str) -> str:
    if not given[name]:
        raise StartError(f"{name} is not set: the chart sets it")
    return given[name]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _choice(given: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    word = given[name] or choices[0]
    if word not in choices:
        raise StartError(f"{name}={word}: use {' or '.join(choices)}")
    return word


def _numbers(given: Mapping[str, str], name: str, default: str) -> tuple[int, ...]:
    words = _words(given[name] or default)
    if not all(word.isdecimal() for word in words):
        raise StartError(f"{name}={given[name]}: use whole numbers with commas between them")
    return tuple(int(word) for word in words)


def _port(given: Mapping[str, str], name: str, default: int) -> int:
    numbers = _numbers(given, name, str(default))
    if len(numbers) != 1 or numbers[0] > 65535:
        raise StartError(f"{name}={given[name]}: use one number up to 65535")
    return numbers[0]


def _url(given: Mapping[str, str], name: str) -> str:
    if given[name] and not given[name].startswith(("http://", "https://")):
        raise StartError(f"{name}={given[name]}: use a URL, such as http://prometheus.monitoring:9090")
    return given[name]


def _engine_images(given: Mapping[str, str]) -> dict[EngineType, str]:
    images = {engine: given[f"PROA_ENGINE_IMAGE_{engine.name}"] for engine in EngineType}
    return {engine: image for engine, image in images.items() if image}


def _labels(name: str, text: str) -> dict[str, str]:
    found = _json(name, text)
    if not all(isinstance(value, str) for value in found.values()):
        raise StartError(f'{name}={text}: use a JSON object of labels, such as {{"app": "x"}}')
    return found


def _download_env(text: str) -> dict[str, str]:
    found = _json("PROA_DOWNLOAD_ENV", text)
    if set(found) - set(_DOWNLOAD_ENV) or not all(isinstance(value, str) for value in found.values()):
        raise StartError(f"PROA_DOWNLOAD_ENV={text}: use a JSON object of texts with {', '.join(_DOWNLOAD_ENV)}")
    return found


def _selector(text: str) -> PodSelector:
    name = "PROA_PROMETHEUS_SELECTOR"
    found = _json(name, text)
    if set(found) - {"namespaceLabels", "podLabels"}:
        raise StartError(f"{name}={text}: use a JSON object with namespaceLabels and podLabels")
    parts = {key: _labels(name, json.dumps(found.get(key) or {})) for key in ("namespaceLabels", "podLabels")}
    return PodSelector(namespace_labels=parts["namespaceLabels"], pod_labels=parts["podLabels"])


def _json(name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StartError(f"{name}={text}: use a JSON object")
    return found
