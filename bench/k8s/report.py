"""The record as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Row = dict[str, Any]
COLORS = {"spec": "#1f5fa8", "pod": "#c8501e", "child": "#3c8c40"}
P50_MS, P99_MS = 100.0, 1000.0
RSS_MIB, COLD_SECONDS, FAILOVER_SECONDS = 600.0, 60.0, 15.0


def table(record: Row) -> str:
    """Markdown: what was asked for, what was measured, and what the machine did meanwhile."""
    scale = record["scale"]
    title = f"{scale['services']} services, {scale['pods']} pods, {scale['nodes']} nodes"
    lines = [f"{title}; {record['cpu']}, {record['num_cores']} cores; commit {record['commit']}, {record['date']}", ""]
    lines += ["| what | bound | measured | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {what} | {bound} | {found} | {'yes' if holds else '**no**'} |" for what, bound, found, holds in rows(record)
    ]
    lines += ["", "| cores used on average | " + " | ".join(_phases(record)) + " |"]
    lines += ["| --- |" + " --- |" * len(_phases(record))]
    names = list(dict.fromkeys(name for phase in _phases(record) for name in record[phase]["cores"]))
    for name in names:
        cells = [f"{record[phase]['cores'].get(name, 0):.2f}" for phase in _phases(record)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(record: Row) -> list[tuple[str, str, str, bool]]:
    """(what, bound, measured, whether it holds)."""
    latency, rest = record["changes"]["latency_ms"]["all"], record["at_rest"]
    most = max(record[phase]["rss_most_mib"] for phase in ("bring_up", "at_rest", "changes", "cold_start"))
    cold, over = record["cold_start"], record["failover"]
    answered = f"{latency['count']} of {record['changes']['changes']} changes"
    num_unanswered = len(record["changes"]["unanswered"])
    others = sum(rest["other_writes"].values())
    return [
        (f"event to child write, p50 ({answered})", "< 100 ms", f"{latency['p50']} ms", latency["p50"] < P50_MS),
        ("event to child write, p99", "< 1 s", f"{latency['p99']} ms", latency["p99"] < P99_MS),
        ("changes without an answer", "0", str(num_unanswered), not num_unanswered),
        (f"writes at rest in {rest['seconds']:.0f} s besides the Lease", "0", str(others), not others),
        ("resident memory, most", "< 600 MiB", f"{most:.0f} MiB", most < RSS_MIB),
        ("cold start: all read, all planned", "< 60 s", f"{cold['seconds']} s", cold["seconds"] < COLD_SECONDS),
        (
            "failover: SIGKILL to the last of 10 answers",
            "< 15 s",
            f"{over['all_answered_seconds']} s (Lease {over['lease_seconds']} s)",
            over["all_answered_seconds"] < FAILOVER_SECONDS and not over["unanswered"],
        ),
    ]


def write_plot(path: Path, record: Row) -> None:
    """Distribution of the latency by kind of change."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, values in record["changes"]["samples_ms"].items():
        shares = [(position + 1) / len(values) for position in range(len(values))]
        axes.step(values, shares, where="post", color=COLORS[kind], label=f"{kind}: {len(values)} changes")
    axes.axvline(P50_MS, color="grey", linestyle=":", linewidth=1)
    axes.axvline(P99_MS, color="grey", linestyle=":", linewidth=1)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.set_xlabel("event to the operator's first child write (ms); dotted: bounds of p50 and p99")
    axes.set_ylabel("share at or below")
    scale = record["scale"]
    axes.set_title(f"{scale['services']} services, {scale['pods']} pods, {scale['nodes']} nodes", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def _phases(record: Row) -> list[str]:
    return [name for name in ("bring_up", "at_rest", "changes") if "cores" in record[name]]
