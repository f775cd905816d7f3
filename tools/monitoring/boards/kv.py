"""The KV fabric: hand-offs, leases and what they pin."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Query, Section, graph, per_second


def _quantile(name: str, quantile: float, by: str) -> str:
    rate = f"rate({name}_bucket{{{MINE}}}[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by (service, {by}, le) ({rate}))"


KV = Board(
    uid="proa-kv",
    title="Proa / KV fabric",
    text="How KV caches get from prefill to decode, who holds them meanwhile, and what that costs.",
    sections=(
        Section(
            title="Hand-offs",
            panels=(
                Graph(
                    title="Time of a hand-off",
                    text="Reservation to commit, on the decode worker.",
                    unit="s",
                    queries=tuple(
                        Query(
                            _quantile("proa_kv_transfer_seconds", quantile, "transport"),
                            f"{{{{service}}}} {{{{transport}}}} p{quantile * 100:.0f}",
                        )
                        for quantile in (0.5, 0.95)
                    ),
                ),
                graph(
                    "Bytes",
                    "KV bytes that decode workers read from prefill workers.",
                    "Bps",
                    per_second("proa_kv_transfer_bytes_total", by="service, transport"),
                    "{{service}} {{transport}}",
                ),
                graph(
                    "Hand-offs",
                    "Begun a second, and the share that did not arrive.",
                    "reqps",
                    f"proa:kv_transfers:rate5m{{{MINE}}}",
                    "{{service}}",
                ),
                graph(
                    "Failed",
                    "Share of hand-offs that did not arrive.",
                    "percentunit",
                    f"proa:kv_transfer_failures:ratio5m{{{MINE}}}",
                    "{{service}}",
                ),
                graph(
                    "Computed again",
                    "Prompts that decode computed itself after a failed hand-off.",
                    "reqps",
                    per_second("proa_kv_recomputed_total", by="service"),
                    "{{service}}",
                ),
                graph(
                    "Tokens fetched",
                    "Prompt tokens that came with a hand-off instead of being computed.",
                    "short",
                    per_second("vllm:external_prefix_cache_hits_total", by="service"),
                    "{{service}}",
                ),
            ),
        ),
        Section(
            title="Leases",
            panels=(
                graph(
                    "Leases by state",
                    "A prefill worker keeps a prompt's blocks for one hand-off under one lease.",
                    "short",
                    f"sum by (state) (proa_kv_leases{{{MINE}}})",
                    "{{state}}",
                    is_stacked=True,
                ),
                graph(
                    "How leases end",
                    "expired and unclaimed: nobody fetched in time.",
                    "reqps",
                    per_second("proa_kv_lease_outcomes_total", by="outcome"),
                    "{{outcome}}",
                ),
                graph(
                    "KV blocks by state",
                    "pinned blocks are held by leases; total is the size of the pool.",
                    "short",
                    f"sum by (role, state) (proa_kv_blocks{{{MINE}}})",
                    "{{role}} {{state}}",
                ),
            ),
        ),
    ),
)
