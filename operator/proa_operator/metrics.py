"""Metrics of the operator. Base units; every label has a closed set of values."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client import Info as BuildInfo

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

RECONCILE_SECONDS = Histogram(
    "proa_operator_reconcile_seconds", "Time of one reconciliation of one service.", ["outcome"], buckets=_SECONDS
)
PLAN_SECONDS = Histogram("proa_operator_plan_seconds", "Time of observe and plan of one service.", buckets=_SECONDS)
EVENT_TO_WRITE_SECONDS = Histogram(
    "proa_operator_event_to_write_seconds",
    "From the first event that asked for a reconciliation to its first child write.",
    buckets=_SECONDS,
)
QUEUE_DEPTH = Gauge("proa_operator_queue_depth", "Services that wait to be reconciled.")
QUEUE_AGE_SECONDS = Gauge("proa_operator_queue_age_seconds", "Age of the oldest waiting or running reconciliation.")
API_REQUESTS = Counter("proa_operator_api_requests", "Requests to the API server.", ["verb", "kind", "code"])
WATCH_EVENTS = Counter("proa_operator_watch_events", "Events of the watch streams.", ["kind"])
CACHED_OBJECTS = Gauge("proa_operator_cached_objects", "Objects in the cache.", ["kind"])
WORKER_CALLS = Counter("proa_operator_worker_calls", "Calls to WorkerAdmin.", ["method", "outcome"])
IS_LEADER = Gauge("proa_operator_is_leader", "1 while this replica holds the lease.")
LEASE_TRANSITIONS = Gauge("proa_operator_lease_transitions", "Transitions of the lease when this replica took it.")
BUILD = BuildInfo("proa_operator_build", "Version of the operator.")
