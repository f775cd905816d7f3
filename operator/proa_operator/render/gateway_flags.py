"""Flags of the gateway, `smg`, that follow from a spec; the same in a cluster and on one machine.

The policies make a request go elsewhere when a worker fails at its start. Cache-aware routing, which prefill needs for
its prefix cache, retries at the same worker until the circuit breaker opens; least load does not. The breaker counts
requests, not tries (measured: with a threshold of 2 a request failed with 503 in one of three runs, with 1 in none of
eight), and it counts neither INVALID_ARGUMENT nor RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

from proa_operator.api.service import ServiceSpec

AGGREGATED_POLICY = ("--policy", "cache_aware")
PAIRED_POLICIES = ("--pd-disaggregation", "--prefill-policy", "cache_aware", "--decode-policy", "least_load")
_TEMPO: dict[str, str | int] = {
    "cb-timeout-duration-secs": 5,
    "health-check-interval-secs": 2,
    "health-check-timeout-secs": 2,
    "worker-startup-check-interval": 1,
    "load-monitor-interval": 2,
}


def gateway_flags(spec: ServiceSpec, *, smallest_pool: int) -> dict[str, str | int]:
    """Option -> value, without the leading dashes. `smallest_pool`: workers in the smaller of the pools."""
    options: dict[str, str | int] = {
        "backend": "vllm",
        "shutdown-grace-period-secs": spec.drain.timeout_seconds,
        "log-level": "warn",
        # Failed requests until a worker is left out for 5 s: at once only where another one can take over.
        "cb-failure-threshold": 1 if smallest_pool > 1 else 2,
        **_TEMPO,
    }
    if spec.gateway.tool_parser:
        options["tool-call-parser"] = spec.gateway.tool_parser
    if spec.gateway.reasoning_parser:
        options["reasoning-parser"] = spec.gateway.reasoning_parser
    return options


def words(options: dict[str, str | int]) -> list[str]:
    """Options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
