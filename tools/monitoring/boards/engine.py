"""Each worker: steps, batches, times inside a request."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Query, Section, graph, per_second


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
                graph(
                    "Steps a second",
                    "Of the engine's loop; a busy worker at zero hangs.",
                    "ops",
                    f"rate(proa_engine_steps_total{{{MINE}}}[$__rate_interval])",
                    "{{pod}}",
                ),
                graph(
                    "Tokens a step",
                    "Prompt tokens and decoded sequences together.",
                    "short",
                    _mean("vllm:iteration_tokens_total"),
                    "{{pod}}",
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
                graph(
                    "Running",
                    "Sequences in the batch of each worker: an uneven load shows here.",
                    "short",
                    f"vllm:num_requests_running{{{MINE}}}",
                    "{{pod}}",
                ),
                graph(
                    "Waiting",
                    "Requests in the queue of each worker.",
                    "short",
                    f"vllm:num_requests_waiting{{{MINE}}}",
                    "{{pod}}",
                ),
                graph(
                    "KV cache in use",
                    "Of each worker.",
                    "percentunit",
                    f"vllm:kv_cache_usage_perc{{{MINE}}}",
                    "{{pod}}",
                ),
            ),
        ),
        Section(
            title="Inside a request, means",
            panels=(
                graph(
                    "In the queue",
                    "Arrival at the worker to its first step.",
                    "s",
                    _mean("vllm:request_queue_time_seconds"),
                    "{{pod}}",
                ),
                graph(
                    "Prefill", "First step to first token.", "s", _mean("vllm:request_prefill_time_seconds"), "{{pod}}"
                ),
                graph("Decode", "First to last token.", "s", _mean("vllm:request_decode_time_seconds"), "{{pod}}"),
                graph(
                    "Time to first token at the worker",
                    "For prefill its whole part; for decode the hand-off and one step.",
                    "s",
                    _mean("vllm:time_to_first_token_seconds"),
                    "{{pod}}",
                ),
                graph(
                    "Time between tokens",
                    "Of each worker: one slow GPU stands out.",
                    "s",
                    _mean("vllm:inter_token_latency_seconds"),
                    "{{pod}}",
                ),
                graph(
                    "Whole request",
                    "Arrival at the worker to its last token.",
                    "s",
                    _mean("vllm:e2e_request_latency_seconds"),
                    "{{pod}}",
                ),
                graph(
                    "Time per output token",
                    "Of whole answers, after their first token.",
                    "s",
                    _mean("vllm:request_time_per_output_token_seconds"),
                    "{{pod}}",
                ),
                graph(
                    "Finished, by reason",
                    "stop, length, abort or error.",
                    "reqps",
                    per_second("vllm:request_success_total", by="role, finished_reason"),
                    "{{role}} {{finished_reason}}",
                ),
            ),
        ),
    ),
)
