"""What a client of a service sees, and what the pools do about it."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Number, Query, Section, per_second

BY_ROLE = "{{service}} {{role}}"

SERVICE = Board(
    uid="proa-service",
    title="Proa / Service",
    text="Requests, errors and latencies as clients see them; load and room of both pools.",
    sections=(
        Section(
            title="Now",
            panels=(
                Number(
                    title="Requests",
                    text="Answered requests a second, over 5 minutes.",
                    unit="reqps",
                    queries=(Query(f"sum(proa:requests:rate5m{{{MINE}}})", ""),),
                ),
                Number(
                    title="Failed",
                    text="Share of 5xx answers over 5 minutes.",
                    unit="percentunit",
                    queries=(Query(f"max(proa:request_errors:ratio5m{{{MINE}}})", ""),),
                ),
                Number(
                    title="First token, p95",
                    text="Measured at the gateway, for streams.",
                    unit="s",
                    queries=(Query(f"max(proa:ttft_seconds:p95_5m{{{MINE}}})", ""),),
                ),
                Number(
                    title="Between tokens, p95",
                    text="Measured at the decode workers.",
                    unit="s",
                    queries=(Query(f"max(proa:itl_seconds:p95_5m{{{MINE}}})", ""),),
                ),
                Number(
                    title="Waiting",
                    text="Requests that wait in the queues of workers.",
                    unit="short",
                    queries=(Query(f"sum(proa:requests_waiting:sum{{{MINE}}})", ""),),
                ),
                Number(
                    title="Running",
                    text="Requests in the batches of workers.",
                    unit="short",
                    queries=(Query(f"sum(proa:requests_running:sum{{{MINE}}})", ""),),
                ),
            ),
        ),
        Section(
            title="Clients",
            panels=(
                Graph(
                    title="Answers by status",
                    text="499: the client left first. 503: no worker was free or reachable.",
                    unit="reqps",
                    is_stacked=True,
                    queries=(
                        Query(
                            "sum by (status_code) (rate("
                            f'smg_http_responses_total{{{MINE},path=~"/v1/.*"}}[$__rate_interval]))',
                            "{{status_code}}",
                        ),
                    ),
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
                Graph(
                    title="Connections",
                    text="Open HTTP connections of the gateways.",
                    unit="short",
                    queries=(Query(f"sum by (service) (smg_http_connections_active{{{MINE}}})", "{{service}}"),),
                ),
            ),
        ),
        Section(
            title="Pools",
            panels=(
                Graph(
                    title="Waiting",
                    text="A queue at prefill raises the time to the first token, one at decode too.",
                    unit="short",
                    queries=(Query(f"proa:requests_waiting:sum{{{MINE}}}", BY_ROLE),),
                ),
                Graph(
                    title="Running",
                    text="Sequences in the batches.",
                    unit="short",
                    queries=(Query(f"proa:requests_running:sum{{{MINE}}}", BY_ROLE),),
                ),
                Graph(
                    title="KV caches in use",
                    text="Mean over the workers of a pool; above 0.95 requests wait or are preempted.",
                    unit="percentunit",
                    queries=(Query(f"proa:kv_usage:mean{{{MINE}}}", BY_ROLE),),
                ),
                Graph(
                    title="Prompt tokens",
                    text="Tokens of finished prefills a second.",
                    unit="short",
                    queries=(Query(f"proa:prompt_tokens:rate5m{{{MINE}}}", BY_ROLE),),
                ),
                Graph(
                    title="Generated tokens",
                    text="Sampled tokens a second; a prefill worker samples none but for answers of one token.",
                    unit="short",
                    queries=(Query(f"proa:generation_tokens:rate5m{{{MINE}}}", BY_ROLE),),
                ),
                Graph(
                    title="Prefix cache hits",
                    text="Share of prompt tokens that were in the cache.",
                    unit="percentunit",
                    queries=(Query(f"proa:prefix_hits:ratio5m{{{MINE}}}", BY_ROLE),),
                ),
            ),
        ),
        Section(
            title="Gateway",
            panels=(
                Graph(
                    title="Workers that the gateway knows",
                    text="By kind; zero of one kind means that requests fail.",
                    unit="short",
                    queries=(
                        Query(
                            f"sum by (service, worker_type) (smg_worker_pool_size{{{MINE}}})",
                            "{{service}} {{worker_type}}",
                        ),
                    ),
                ),
                Graph(
                    title="Circuit breakers that are not closed",
                    text="Workers that a gateway has given up on for a while.",
                    unit="short",
                    queries=(Query(f"sum by (service) (smg_worker_cb_state{{{MINE}}} > bool 0)", "{{service}}"),),
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
