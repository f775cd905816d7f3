"""The KV fabric: hand-offs, leases and what they pin."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Query, Section, per_second


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
                Graph(
                    title="Bytes",
                    text="KV bytes that decode workers read from prefill workers.",
                    unit="Bps",
                    queries=(
                        Query(
                            per_second("proa_kv_transfer_bytes_total", by="service, transport"),
                            "{{service}} {{transport}}",
                        ),
                    ),
                ),
                Graph(
                    title="Hand-offs",
                    text="Begun a second, and the share that did not arrive.",
                    unit="reqps",
                    queries=(Query(f"proa:kv_transfers:rate5m{{{MINE}}}", "{{service}}"),),
                ),
                Graph(
                    title="Failed",
                    text="Share of hand-offs that did not arrive.",
                    unit="percentunit",
                    queries=(Query(f"proa:kv_transfer_failures:ratio5m{{{MINE}}}", "{{service}}"),),
                ),
                Graph(
                    title="Computed again",
                    text="Prompts that decode computed itself after a failed hand-off.",
                    unit="reqps",
                    queries=(
                        Query(
                            per_second("proa_kv_recomputed_total", by="service"),
                            "{{service}}",
                        ),
                    ),
                ),
                Graph(
                    title="Tokens fetched",
                    text="Prompt tokens that came with a hand-off instead of being computed.",
                    unit="short",
                    queries=(
                        Query(
                            per_second("vllm:external_prefix_cache_hits_total", by="service"),
                            "{{service}}",
                        ),
                    ),
                ),
            ),
        ),
        Section(
            title="Leases",
            panels=(
                Graph(
                    title="Leases by state",
                    text="A prefill worker keeps a prompt's blocks for one hand-off under one lease.",
                    unit="short",
                    is_stacked=True,
                    queries=(Query(f"sum by (state) (proa_kv_leases{{{MINE}}})", "{{state}}"),),
                ),
                Graph(
                    title="How leases end",
                    text="expired and unclaimed: nobody fetched in time.",
                    unit="reqps",
                    queries=(
                        Query(
                            per_second("proa_kv_lease_outcomes_total", by="outcome"),
                            "{{outcome}}",
                        ),
                    ),
                ),
                Graph(
                    title="KV blocks by state",
                    text="pinned blocks are held by leases; total is the size of the pool.",
                    unit="short",
                    queries=(Query(f"sum by (role, state) (proa_kv_blocks{{{MINE}}})", "{{role}} {{state}}"),),
                ),
            ),
        ),
    ),
)
