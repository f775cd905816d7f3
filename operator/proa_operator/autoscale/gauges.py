"""Metrics of the decisions: the operator's and `proa up`'s. Labels: namespace, service, and closed sets."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from proa_operator.autoscale.act import Reason, Targets
from proa_operator.autoscale.config import Config
from proa_operator.autoscale.decide import Decision
from proa_operator.autoscale.signals import Signals
from proa_operator.autoscale.solve import BINDINGS

_SERVICE = ("namespace", "service")
_POOL = (*_SERVICE, "role")
_NAN = float("nan")


def _gauge(name: str, text: str, labels: tuple[str, ...] = _SERVICE) -> Gauge:
    return Gauge(f"proa_autoscaler_{name}", text, labels)


DESIRED = _gauge("desired_groups", "Groups that the autoscaler decided on.", _POOL)
RECOMMENDED = _gauge("recommended_groups", "Groups for the present demand, without windows and pauses.", _POOL)
CURRENT = _gauge("current_groups", "Groups that serve.", _POOL)
MODEL_RATIO = _gauge("model_ratio", "Time of the work of a step, seen over profiled.", _POOL)
DEMAND = _gauge("demand_requests_per_second", "Forecast arrivals, and the backlog over its drain time.")
ARRIVALS = _gauge("arrivals_per_second", "Requests that clients send.")
BACKLOG = _gauge("backlog_tokens", "Prompt tokens that wait for prefill.")
TTFT = _gauge("predicted_ttft_seconds", "Time to the first token at the SLO's percentile; NaN when saturated.")
ITL = _gauge("predicted_itl_seconds", "Time between tokens at the SLO's percentile; NaN when saturated.")
SLO_TTFT = _gauge("slo_ttft_seconds", "Objective of the time to the first token.")
SLO_ITL = _gauge("slo_itl_seconds", "Objective of the time between tokens.")
FRESH = _gauge("metrics_fresh", "1 while no signal is missing.")
BINDING = _gauge("binding", "1 for the field that keeps the service from what it needs.", (*_SERVICE, "constraint"))
DECISIONS = Counter("proa_autoscaler_decisions", "Decisions by reason.", (*_SERVICE, "reason"))
SECONDS = Histogram(
    "proa_autoscaler_decision_seconds",
    "Time of one decision, without asking Prometheus.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1),
)
_OF_SERVICE = (DEMAND, ARRIVALS, BACKLOG, TTFT, ITL, SLO_TTFT, SLO_ITL, FRESH)
_OF_POOL = (DESIRED, RECOMMENDED, CURRENT, MODEL_RATIO)


def export(key: tuple[str, str], signals: Signals, config: Config, decision: Decision, seconds: float) -> None:
    """Values of one decision about the service `key`: (namespace, name)."""
    outcome = decision.outcome
    _pools(key, decision.targets, outcome.recommended, signals)
    MODEL_RATIO.labels(*key, "prefill").set(outcome.model.prefill.work)
    MODEL_RATIO.labels(*key, "decode").set(outcome.model.decode.work)
    values = (
        (DEMAND, outcome.demand_per_second),
        (ARRIVALS, signals.arrivals_per_second if signals.is_fresh else None),
        (BACKLOG, signals.backlog_tokens if signals.is_fresh else None),
        (TTFT, outcome.predicted.ttft_seconds),
        (ITL, outcome.predicted.itl_seconds),
        (SLO_TTFT, config.slo.ttft_seconds),
        (SLO_ITL, config.slo.itl_seconds),
        (FRESH, float(signals.is_fresh)),
    )
    for gauge, value in values:
        gauge.labels(*key).set(_NAN if value is None else value)
    for constraint in BINDINGS:
        BINDING.labels(*key, constraint).set(float(outcome.binding == constraint))
    DECISIONS.labels(*key, outcome.reason.value).inc()
    SECONDS.observe(seconds)


def forget(key: tuple[str, str]) -> None:
    """The service is gone, or is not scaled any more."""
    for gauge in _OF_SERVICE:
        gauge.remove(*key)
    for gauge in _OF_POOL:
        for role in ("prefill", "decode"):
            gauge.remove(*key, role)
    for constraint in BINDINGS:
        BINDING.remove(*key, constraint)
    for reason in Reason:
        DECISIONS.remove(*key, reason.value)


def _pools(key: tuple[str, str], targets: Targets, recommended: Targets, signals: Signals) -> None:
    rows = (
        ("prefill", targets.prefill, recommended.prefill, signals.prefill.ready),
        ("decode", targets.decode, recommended.decode, signals.decode.ready),
    )
    for role, desired, wish, ready in rows:
        DESIRED.labels(*key, role).set(desired)
        RECOMMENDED.labels(*key, role).set(wish)
        CURRENT.labels(*key, role).set(ready)
