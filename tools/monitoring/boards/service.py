"""What a client of a service sees, and what the pools do about it."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Query, Section, graph, number, per_second

BY_ROLE = "{{service}} {{role}}"

SERVICE = Board(
    uid="proa-service",
    title="Proa / Service",
    text="Requests, errors and latencies as clients see them; load and room of both pools.",
    sections=(
        Section(
            title="Now",
            panels=(
                number(
                    "Requests",
                    "Answered requests a second, over 5 minutes.",
                    "reqps",
                    f"sum(proa:requests:rate5m{{{MINE}}})",
                ),
                number(
                    "Failed",
                    "Share of 5xx answers over 5 minutes.",
                    "percentunit",
                    f"max(proa:request_errors:ratio5m{{{MINE}}})",
                ),
                number(
                    "First token, p95",
                    "Measured at the gateway, for streams.",
                    "s",
                    f"max(proa:ttft_seconds:p95_5m{{{MINE}}})",
                ),
                number(
                    "Between tokens, p95",
                    "Measured at the decode workers.",
                    "s",
                    f"max(proa:itl_seconds:p95_5m{{{MINE}}})",
                ),
                number(
                    "Waiting",
                    "Requests that wait in the queues of workers.",
                    "short",
                    f"sum(proa:requests_waiting:sum{{{MINE}}})",
                ),
                number(
                    "Running",
                    "Requests in the batches of workers.",
                    "short",
                    f"sum(proa:requests_running:sum{{{MINE}}})",
                ),
            ),
        ),
        Section(
            title="Clients",
            panels=(
                graph(
                    "Answers by status",
                    "499: the client left first. 503: no worker was free or reachable.",
                    "reqps",
                    f'sum by (status_code) (rate(smg_http_responses_total{{{MINE},path=~"/v1/.*"}}[$__rate_interval]))',
                    "{{status_code}}",
                    is_stacked=True,
                ),
                Graph(
                    title="Time to first token",
                    text="Gateway to client, queueing, prefill and hand-off included.",
                    unit="s",
                    queries=(
                        Query(f"proa:ttft_seconds:p50_5m{{{MINE}}}", "{{service}} p50"),
                        Query(f"proa:ttft_seconds:p95_5m{{{MINE}}}", "{{service}} p95"),
                    ),
                ),
                Graph(
                    title="Time between tokens",
                    text="Of the decode workers.",
                    unit="s",
                    queries=(
                        Query(f"proa:itl_seconds:p50_5m{{{MINE}}}", "{{service}} p50"),
                        Query(f"proa:itl_seconds:p95_5m{{{MINE}}}", "{{service}} p95"),
                    ),
                ),
                Graph(
                    title="Length of prompts, p50 and p95",
                    text="In tokens, as the prefill workers see them.",
                    unit="short",
                    queries=tuple(
                        Query(
                            f"histogram_quantile({quantile}, sum by (service, le) (rate("
                            f'vllm:request_prompt_tokens_bucket{{{MINE},role="prefill"}}[5m])))',
                            f"{{{{service}}}} p{quantile * 100:.0f}",
                        )
                        for quantile in (0.5, 0.95)
                    ),
                ),
                Graph(
                    title="Length of answers, p50 and p95",
                    text="In tokens, as the decode workers see them.",
                    unit="short",
                    queries=tuple(
                        Query(
                            f"histogram_quantile({quantile}, sum by (service, le) (rate("
                            f'vllm:request_generation_tokens_bucket{{{MINE},role="decode"}}[5m])))',
                            f"{{{{service}}}} p{quantile * 100:.0f}",
                        )
                        for quantile in (0.5, 0.95)
                    ),
                ),
                graph(
                    "Connections",
                    "Open HTTP connections of the gateways.",
                    "short",
                    f"sum by (service) (smg_http_connections_active{{{MINE}}})",
                    "{{service}}",
                ),
            ),
        ),
        Section(
            title="Pools",
            panels=(
                graph(
                    "Waiting",
                    "A queue at prefill raises the time to the first token, one at decode too.",
                    "short",
                    f"proa:requests_waiting:sum{{{MINE}}}",
                    BY_ROLE,
                ),
                graph("Running", "Sequences in the batches.", "short", f"proa:requests_running:sum{{{MINE}}}", BY_ROLE),
                graph(
                    "KV caches in use",
                    "Mean over the workers of a pool; above 0.95 requests wait or are preempted.",
                    "percentunit",
                    f"proa:kv_usage:mean{{{MINE}}}",
                    BY_ROLE,
                ),
                graph(
                    "Prompt tokens",
                    "Tokens of finished prefills a second.",
                    "short",
                    f"proa:prompt_tokens:rate5m{{{MINE}}}",
                    BY_ROLE,
                ),
                graph(
                    "Generated tokens",
                    "Sampled tokens a second; a prefill worker samples none but for answers of one token.",
                    "short",
                    f"proa:generation_tokens:rate5m{{{MINE}}}",
                    BY_ROLE,
                ),
                graph(
                    "Prefix cache hits",
                    "Share of prompt tokens that were in the cache.",
                    "percentunit",
                    f"proa:prefix_hits:ratio5m{{{MINE}}}",
                    BY_ROLE,
                ),
            ),
        ),
        Section(
            title="Gateway",
            panels=(
                graph(
                    "Workers that the gateway knows",
                    "By kind; zero of one kind means that requests fail.",
                    "short",
                    f"sum by (service, worker_type) (smg_worker_pool_size{{{MINE}}})",
                    "{{service}} {{worker_type}}",
                ),
                graph(
                    "Circuit breakers that are not closed",
                    "Workers that a gateway has given up on for a while.",
                    "short",
                    f"sum by (service) (smg_worker_cb_state{{{MINE}}} > bool 0)",
                    "{{service}}",
                ),
                Graph(
                    title="Retries",
                    text="Of requests whose worker failed, and of those that failed everywhere.",
                    unit="reqps",
                    queries=(
                        Query(
                            per_second("smg_worker_retries_total", by="service"),
                            "{{service}} retried",
                        ),
                        Query(
                            per_second("smg_worker_retries_exhausted_total", by="service"),
                            "{{service}} failed",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
