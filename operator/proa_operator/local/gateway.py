"""The command line of the gateway, `smg`, for workers of this machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from proa_operator.api.service import ServiceSpec
from proa_operator.local.process import GatewayServing, IdleGauge, Process, Role
from proa_operator.render.gateway_flags import AGGREGATED_POLICY, PAIRED_POLICIES, gateway_flags, words

_LOOPBACK = "127.0.0.1"


def gateway_process(
    spec: ServiceSpec,
    *,
    program: tuple[str, ...],
    model: Path,
    workers: tuple[Process, ...],
    host: str,
    port: int,
    metrics_port: int,
    control_key: str,
) -> Process:
    """The gateway in front of `workers`: prefill/decode mode when they have these roles, else one pool.

    `control_key` locks what else would let any client register backends; nobody needs to know it.
    """
    metrics_url = f"http://{_LOOPBACK}:{metrics_port}/metrics"
    options = gateway_flags(spec, smallest_pool=_smallest_pool(workers)) | {
        "host": host,
        "port": port,
        "model-path": str(model),
        "prometheus-host": _LOOPBACK,
        "prometheus-port": metrics_port,
        "control-plane-api-keys": f"locked:locked:admin:{control_key}",
    }
    return Process(
        name="gateway",
        role=Role.GATEWAY,
        argv=(*program, *words(options), *_pools(workers), *spec.gateway.args),
        env=(),
        port=port,
        metrics_url=metrics_url,
        ready=GatewayServing(url=f"http://{reachable(host)}:{port}", num_workers=len(workers)),
        needs=tuple(worker.name for worker in workers),
        drain_seconds=spec.drain.timeout_seconds + 5.0,
        # smg waits 5 s for load balancers before it ends; nothing balances here, so it may go once it is idle.
        idle=IdleGauge(url=metrics_url, metric="smg_http_connections_active"),
    )


def _smallest_pool(workers: tuple[Process, ...]) -> int:
    return min(Counter(worker.role for worker in workers).values())


def reachable(host: str) -> str:
    """The address under which this machine reaches a server that listens on `host`."""
    if host in ("0.0.0.0", "::"):
        return _LOOPBACK if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def _pools(workers: tuple[Process, ...]) -> list[str]:
    urls = {role: [f"grpc://{_LOOPBACK}:{w.port}" for w in workers if w.role is role] for role in Role}
    if urls[Role.BOTH]:
        return [*AGGREGATED_POLICY, "--worker-urls", *urls[Role.BOTH]]
    prefill = [word for url in urls[Role.PREFILL] for word in ("--prefill", url)]
    decode = [word for url in urls[Role.DECODE] for word in ("--decode", url)]
    return [*PAIRED_POLICIES, *prefill, *decode]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    return host in ("localhost", "::1") or host.startswith("127.")
