"""The operator itself."""

from __future__ import annotations

from tools.monitoring.panel import Board, Graph, Query, Section, graph


def _quantile(name: str, quantile: float) -> str:
    return f"histogram_quantile({quantile}, sum by (le) (rate({name}_bucket[$__rate_interval])))"


def _quantiles(name: str) -> tuple[Query, ...]:
    return tuple(Query(_quantile(name, quantile), f"p{quantile * 100:.0f}") for quantile in (0.5, 0.99))


OPERATOR = Board(
    uid="proa-operator",
    title="Proa / Operator",
    text="Does it lead, does it keep up, what does it ask of the API server.",
    has_service=False,
    sections=(
        Section(
            title="Work",
            panels=(
                graph(
                    "Leader", "1 for the replica that holds the lease.", "short", "proa_operator_is_leader", "{{pod}}"
                ),
                Graph(
                    title="News to first write",
                    text="From the event that asked for a look at a service to the first write that followed.",
                    unit="s",
                    queries=_quantiles("proa_operator_event_to_write_seconds"),
                ),
                Graph(
                    title="One look at a service",
                    text="Observe, plan, act and status.",
                    unit="s",
                    queries=_quantiles("proa_operator_reconcile_seconds"),
                ),
                Graph(
                    title="Planning",
                    text="The pure part of it.",
                    unit="s",
                    queries=_quantiles("proa_operator_plan_seconds"),
                ),
                graph("Queue", "Services that wait to be looked at.", "short", "proa_operator_queue_depth", "{{pod}}"),
                graph(
                    "Oldest in the queue",
                    "Above 30 s for 5 minutes: ProaOperatorBehind.",
                    "s",
                    "proa_operator_queue_age_seconds",
                    "{{pod}}",
                ),
                graph(
                    "Looks by outcome",
                    "defect: a bug of the operator, with a traceback in its log.",
                    "ops",
                    "sum by (outcome) (rate(proa_operator_reconcile_seconds_count[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
        ),
        Section(
            title="API server and workers",
            panels=(
                graph(
                    "Requests",
                    "By verb; at rest only the lease is written.",
                    "reqps",
                    "sum by (verb) (rate(proa_operator_api_requests_total[$__rate_interval]))",
                    "{{verb}}",
                ),
                graph(
                    "Answers by code",
                    "409: somebody else wrote first, it is tried again. 403: the chart's rights do not suffice.",
                    "reqps",
                    "sum by (code) (rate(proa_operator_api_requests_total[$__rate_interval]))",
                    "{{code}}",
                ),
                graph(
                    "Watch events",
                    "By kind.",
                    "ops",
                    "sum by (kind) (rate(proa_operator_watch_events_total[$__rate_interval]))",
                    "{{kind}}",
                ),
                graph(
                    "Calls to workers",
                    "Load, Drain and Probe, by outcome.",
                    "reqps",
                    "sum by (method, outcome) (rate(proa_operator_worker_calls_total[$__rate_interval]))",
                    "{{method}} {{outcome}}",
                ),
                graph(
                    "Cached objects", "By kind.", "short", "max by (kind) (proa_operator_cached_objects)", "{{kind}}"
                ),
                graph(
                    "Memory",
                    "Resident set of each replica.",
                    "bytes",
                    "process_resident_memory_bytes and on (instance) proa_operator_is_leader",
                    "{{pod}}",
                ),
            ),
        ),
    ),
)
