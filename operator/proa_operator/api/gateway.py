"""The OpenAI-compatible gateway in front of the pools."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proa_operator.api.noun import Count, Noun
from proa_operator.api.secret import SecretKeyRef


class GatewayTls(Noun):
    """Server certificate of the gateway."""

    secret_name: str = ""
    """Secret of type kubernetes.io/tls; empty serves plain HTTP."""


class HttpRoute(Noun):
    """Route of the Gateway API; an empty gateway makes none."""

    gateway: str = ""
    """Name of the Gateway to attach to."""
    gateway_namespace: str = ""
    """Its namespace; empty is the service's own."""
    hostnames: tuple[str, ...] = ()
    """Host names that the route answers to."""


class Gateway(Noun):
    """Replicas, port and access of the gateway."""

    replicas: Count = 2
    """Number of gateway pods."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port that clients connect to."""
    tls: GatewayTls = GatewayTls()
    """Server certificate."""
    api_key_secret_ref: SecretKeyRef = SecretKeyRef()
    """Key that clients must present."""
    http_route: HttpRoute = HttpRoute()
    """Route of the Gateway API."""
    tool_parser: str = ""
    """Name of the gateway's tool-call parser, such as deepseek or qwen."""
    reasoning_parser: str = ""
    """Name of the gateway's reasoning parser, such as deepseek_r1."""
    args: tuple[str, ...] = ()
    """Arguments appended to the gateway's command line."""
