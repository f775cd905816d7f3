"""What the autoscaler saw, what it made of it, what came of it."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Query, Section, graph


def _gauge(name: str, legend: str) -> Query:
    return Query(f"proa_autoscaler_{name}{{{MINE}}}", legend)


AUTOSCALER = Board(
    uid="proa-autoscaler",
    title="Proa / Autoscaler decisions",
    text="Inputs, predictions and decisions side by side; `proa replay` recomputes any of them.",
    sections=(
        Section(
            title="Decision",
            panels=(
                Graph(
                    title="Groups: now and decided",
                    text="decided differs from recommended while a window, a rollout or a limit holds it back.",
                    unit="short",
                    queries=(
                        _gauge("current_groups", "{{service}} {{role}} now"),
                        _gauge("desired_groups", "{{service}} {{role}} decided"),
                        _gauge("recommended_groups", "{{service}} {{role}} recommended"),
                    ),
                ),
                graph(
                    "Decisions by reason",
                    "Why each decision came out as it did.",
                    "ops",
                    f"sum by (reason) (rate(proa_autoscaler_decisions_total{{{MINE}}}[5m]))",
                    "{{reason}}",
                ),
                Graph(
                    title="Limits that bind",
                    text="The demand wants more groups than this limit allows.",
                    unit="short",
                    queries=(_gauge("binding", "{{service}} {{constraint}}"),),
                ),
            ),
        ),
        Section(
            title="Inputs",
            panels=(
                Graph(
                    title="Arrivals and demand",
                    text="Demand adds what has to be worked off and what is forecast.",
                    unit="reqps",
                    queries=(
                        _gauge("arrivals_per_second", "{{service}} arrivals"),
                        _gauge("demand_requests_per_second", "{{service}} demand"),
                    ),
                ),
                Graph(
                    title="Backlog",
                    text="Prompt tokens that wait.",
                    unit="short",
                    queries=(_gauge("backlog_tokens", "{{service}}"),),
                ),
                Graph(
                    title="Metrics are fresh",
                    text="0: something is missing or stale, and the autoscaler holds.",
                    unit="bool_yes_no",
                    queries=(_gauge("metrics_fresh", "{{service}}"),),
                ),
            ),
        ),
        Section(
            title="Predictions and outcomes",
            panels=(
                Graph(
                    title="Time to first token",
                    text="Predicted for the groups decided, measured at the gateway, and the objective.",
                    unit="s",
                    queries=(
                        _gauge("predicted_ttft_seconds", "{{service}} predicted"),
                        Query(f"proa:ttft_seconds:p95_5m{{{MINE}}}", "{{service}} measured p95"),
                        _gauge("slo_ttft_seconds", "{{service}} objective"),
                    ),
                ),
                Graph(
                    title="Time between tokens",
                    text="Predicted, measured at the decode workers, and the objective.",
                    unit="s",
                    queries=(
                        _gauge("predicted_itl_seconds", "{{service}} predicted"),
                        Query(f"proa:itl_seconds:p95_5m{{{MINE}}}", "{{service}} measured p95"),
                        _gauge("slo_itl_seconds", "{{service}} objective"),
                    ),
                ),
                Graph(
                    title="Learned over profiled speed",
                    text="1: the groups are as fast as their PerformanceProfile says; above 1 they are slower.",
                    unit="short",
                    queries=(_gauge("model_ratio", "{{service}} {{role}}"),),
                ),
                graph(
                    "Time of one decision",
                    "Solver and rules, for one service.",
                    "s",
                    "histogram_quantile(0.99, sum by (le) (rate(proa_autoscaler_decision_seconds_bucket[5m])))",
                    "p99",
                ),
            ),
        ),
    ),
)
