"""GPUs under a service, from AMD's device metrics exporter.

The exporter adds pod labels to its series when its ConfigMap says so; docs/monitoring.md has the setting.
"""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Section, graph

PER_GPU = "{{hostname}} GPU {{gpu_id}}"


def _per_gpu(title: str, text: str, unit: str, expr: str) -> Graph:
    return graph(title, text, unit, expr, PER_GPU)


GPU = Board(
    uid="proa-gpu",
    title="Proa / Instinct GPUs",
    text="Utilisation, memory, power and health of the GPUs that the groups of a service hold.",
    sections=(
        Section(
            title="Work",
            panels=(
                _per_gpu(
                    "Busy",
                    "Share of time in which the graphics engine works.",
                    "percent",
                    f"gpu_gfx_activity{{{MINE}}}",
                ),
                _per_gpu(
                    "Memory controller busy",
                    "Near 100 in decode: it is bound by memory.",
                    "percent",
                    f"gpu_umc_activity{{{MINE}}}",
                ),
                graph(
                    "Memory in use",
                    "Weights, KV cache and work space.",
                    "percentunit",
                    f"gpu_used_vram{{{MINE}}} / gpu_total_vram{{{MINE}}}",
                    PER_GPU,
                ),
                graph(
                    "Busy, by pool",
                    "A pool that idles while the other one queues: the ratio is wrong.",
                    "percent",
                    f"avg by (service, role) (gpu_gfx_activity{{{MINE}}})",
                    "{{service}} {{role}}",
                ),
                graph(
                    "Tokens a joule",
                    "Generated tokens of a service over the power of its GPUs.",
                    "short",
                    f"sum by (namespace, service) (proa:generation_tokens:rate5m{{{MINE}}})"
                    f" / sum by (namespace, service) (gpu_package_power{{{MINE}}})",
                    "{{service}}",
                ),
            ),
        ),
        Section(
            title="Health",
            panels=(
                _per_gpu("Power", "Of the package.", "watt", f"gpu_package_power{{{MINE}}}"),
                _per_gpu(
                    "Junction temperature",
                    "Above 100 the clocks may fall.",
                    "celsius",
                    f"gpu_junction_temperature{{{MINE}}}",
                ),
                _per_gpu("Healthy", "As the exporter judges.", "bool_yes_no", f"gpu_health{{{MINE}}}"),
                _per_gpu(
                    "Uncorrectable memory errors",
                    "Each one may have made a wrong result.",
                    "short",
                    f"increase(gpu_ecc_uncorrect_total{{{MINE}}}[1h])",
                ),
            ),
        ),
    ),
)
