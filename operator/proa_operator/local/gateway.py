"""The command line of the gateway, `smg`.

The policies make a request go elsewhere when a worker fails at its start. Cache-aware routing, which prefill needs for
its prefix cache, retries at the same worker until the circuit breaker opens; least load does not. The breaker counts
requests, not tries (measured: with a threshold of 2 a request failed with 503 in one of three runs, with 1 in none of
eight), and it counts neither INVALID_ARGUMENT nor RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from proa_operator.api.service import ServiceSpec
from proa_operator.local.process import GatewayServing, IdleGauge, Process, Role

_LOOPBACK = "127.0.0.1"
_POLICIES: dict[str, str | int] = {
    "cb-timeout-duration-secs": 5,
    "health-check-interval-secs": 2,
    "health-check-timeout-secs": 2,
    "worker-startup-check-interval": 1,
    "load-monitor-interval": 2,
}


def gateway_process(
    spec: ServiceSpec,
    *,
    program: tuple[str, ...],
    model: Path,
    workers: tuple[Process, ...],
    host: str,
    port: int,
    metrics_port: int,
) -> Process:
    """The gateway in front of `workers`: prefill/decode mode when they have these roles, else one pool."""
    metrics_url = f"http://{_LOOPBACK}:{metrics_port}/metrics"
    options: dict[str, str | int] = {
        "host": host,
        "port": port,
        "backend": "vllm",
        "model-path": str(model),
        "prometheus-host": _LOOPBACK,
        "prometheus-port": metrics_port,
        "shutdown-grace-period-secs": spec.drain.timeout_seconds,
        "log-level": "warn",
        "cb-failure-threshold": _breaker_threshold(workers),
        **_POLICIES,
    }
    if spec.gateway.tool_parser:
        options["tool-call-parser"] = spec.gateway.tool_parser
    if spec.gateway.reasoning_parser:
        options["reasoning-parser"] = spec.gateway.reasoning_parser
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return Process(
        name="gateway",
        role=Role.GATEWAY,
        argv=(*program, *words, *_pools(workers), *spec.gateway.args),
        env=(),
        port=port,
        metrics_url=metrics_url,
        ready=GatewayServing(url=f"http://{reachable(host)}:{port}", num_workers=len(workers)),
        needs=tuple(worker.name for worker in workers),
        drain_seconds=spec.drain.timeout_seconds + 5.0,
        # smg waits 5 s for load balancers before it ends; nothing balances here, so it may go once it is idle.
        idle=IdleGauge(url=metrics_url, metric="smg_http_connections_active"),
    )


def _breaker_threshold(workers: tuple[Process, ...]) -> int:
    """Failed requests until a worker is left out for 5 s: at once only where another one can take over."""
    smallest_pool = min(Counter(worker.role for worker in workers).values())
    return 1 if smallest_pool > 1 else 2


def reachable(host: str) -> str:
    """The address under which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::"):
        return _LOOPBACK if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def _pools(workers: tuple[Process, ...]) -> list[str]:
    urls = {role: [f"grpc://{_LOOPBACK}:{w.port}" for w in workers if w.role is role] for role in Role}
    if urls[Role.BOTH]:
        return ["--policy", "cache_aware", "--worker-urls", *urls[Role.BOTH]]
    prefill = [word for url in urls[Role.PREFILL] for word in ("--prefill", url)]
    decode = [word for url in urls[Role.DECODE] for word in ("--decode", url)]
    policies = ["--prefill-policy", "cache_aware", "--decode-policy", "least_load"]
    return ["--pd-disaggregation", *policies, *prefill, *decode]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    return host in ("localhost", "::1") or host.startswith("127.")
