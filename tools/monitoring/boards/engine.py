"""Each worker: steps, batches, times inside a request."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Query, Section, per_second


def _mean(name: str) -> str:
    """Mean of a histogram per worker."""
    sums, counts = (f"rate({name}_{part}{{{MINE}}}[$__rate_interval])" for part in ("sum", "count"))
    return f"{sums} / ({counts} > 0)"


ENGINE = Board(
    uid="proa-engine",
    title="Proa / Engine",
    text="One line for each worker.",
    sections=(
        Section(
            title="Steps",
            panels=(
                Graph(
                    title="Steps a second",
                    text="Of the engine's loop; a busy worker at zero hangs.",
                    unit="ops",
                    queries=(Query(f"rate(proa_engine_steps_total{{{MINE}}}[$__rate_interval])", "{{pod}}"),),
                ),
                Graph(
                    title="Tokens a step",
                    text="Prompt tokens and decoded sequences together.",
                    unit="short",
                    queries=(Query(_mean("vllm:iteration_tokens_total"), "{{pod}}"),),
                ),
                Graph(
                    title="Errors and preemptions",
                    text="Failed steps, and sequences thrown out of the batch for lack of KV blocks.",
                    unit="ops",
                    queries=(
                        Query(f"rate(proa_engine_errors_total{{{MINE}}}[$__rate_interval])", "{{pod}} errors"),
                        Query(f"rate(vllm:num_preemptions_total{{{MINE}}}[$__rate_interval])", "{{pod}} preempted"),
                    ),
                ),
                Graph(
                    title="Running",
                    text="Sequences in the batch of each worker: an uneven load shows here.",
                    unit="short",
                    queries=(Query(f"vllm:num_requests_running{{{MINE}}}", "{{pod}}"),),
                ),
                Graph(
                    title="Waiting",
                    text="Requests in the queue of each worker.",
                    unit="short",
                    queries=(Query(f"vllm:num_requests_waiting{{{MINE}}}", "{{pod}}"),),
                ),
                Graph(
                    title="KV cache in use",
                    text="Of each worker.",
                    unit="percentunit",
                    queries=(Query(f"vllm:kv_cache_usage_perc{{{MINE}}}", "{{pod}}"),),
                ),
            ),
        ),
        Section(
            title="Inside a request, means",
            panels=(
                Graph(
                    title="In the queue",
                    text="Arrival at the worker to its first step.",
                    unit="s",
                    queries=(Query(_mean("vllm:request_queue_time_seconds"), "{{pod}}"),),
                ),
                Graph(
                    title="Prefill",
                    text="First step to first token.",
                    unit="s",
                    queries=(Query(_mean("vllm:request_prefill_time_seconds"), "{{pod}}"),),
                ),
                Graph(
                    title="Decode",
                    text="First to last token.",
                    unit="s",
                    queries=(Query(_mean("vllm:request_decode_time_seconds"), "{{pod}}"),),
                ),
                Graph(
                    title="Time to first token at the worker",
                    text="For prefill its whole part; for decode the hand-off and one step.",
                    unit="s",
                    queries=(Query(_mean("vllm:time_to_first_token_seconds"), "{{pod}}"),),
                ),
                Graph(
                    title="Time between tokens",
                    text="Of each worker: one slow GPU stands out.",
                    unit="s",
                    queries=(Query(_mean("vllm:inter_token_latency_seconds"), "{{pod}}"),),
                ),
                Graph(
                    title="Whole request",
                    text="Arrival at the worker to its last token.",
                    unit="s",
                    queries=(Query(_mean("vllm:e2e_request_latency_seconds"), "{{pod}}"),),
                ),
                Graph(
                    title="Time per output token",
                    text="Of whole answers, after their first token.",
                    unit="s",
                    queries=(Query(_mean("vllm:request_time_per_output_token_seconds"), "{{pod}}"),),
                ),
                Graph(
                    title="Finished, by reason",
                    text="stop, length, abort or error.",
                    unit="reqps",
                    queries=(
                        Query(
                            per_second("vllm:request_success_total", by="role, finished_reason"),
                            "{{role}} {{finished_reason}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
