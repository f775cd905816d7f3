"""The suite's results as tables for people, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from proa_operator.simulate.bounds import Summary, summaries
from proa_operator.simulate.suite import Row, Trial

SUMMARY_HEADS = ("autoscaler", "attainment", "worst", "GPU hours", "x oracle", "worst", "reversals/h")
SCENARIO_HEADS = ("scenario", "autoscaler", "attainment", "of all", "GPU hours", "x oracle", "reversals/h")


def rows_of(trials: Sequence[Trial]) -> list[Row]:
    return [row for trial in trials for row in trial.rows]


def summary_cells(summary: Summary) -> tuple[str, ...]:
    return (
        summary.policy,
        f"{summary.mean_attainment:.1%}",
        f"{summary.least_attainment:.1%}",
        f"{summary.gpu_hours:.1f}",
        f"{summary.median_cost:.2f}",
        f"{summary.worst_cost:.2f}",
        f"{summary.most_reversals_per_hour:.1f}",
    )


def row_cells(row: Row) -> tuple[str, ...]:
    score = row.score
    return (
        row.scenario,
        row.policy,
        f"{score.attainment:.1%}",
        f"{score.attainment_of_all:.1%}",
        f"{score.gpu_hours:.1f}",
        f"{row.cost_ratio:.2f}",
        f"{score.reversals_per_hour:.1f}",
    )


def table(title: str, heads: Sequence[str], cells: Sequence[tuple[str, ...]]) -> Table:
    """For a terminal; the numbers are right-aligned."""
    found = Table(title=title, title_justify="left")
    for head in heads:
        found.add_column(head, justify="left" if head in ("autoscaler", "scenario") else "right")
    for line in cells:
        found.add_row(*line)
    return found


def markdown(heads: Sequence[str], cells: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def excluded_cells(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    """How much of each scenario is not judged, and the groups that are busy all the time."""
    return [
        (
            trial.experiment.scenario.name,
            str(len(trial.experiment.scenario.traffic)),
            f"{np.mean(trial.experiment.windows.startup):.1%}",
            f"{np.mean(trial.experiment.windows.over_capacity):.1%}",
            f"{trial.experiment.need.prefill.mean():.1f}",
            f"{trial.experiment.need.decode.mean():.1f}",
        )
        for trial in trials
    ]


EXCLUDED_HEADS = ("scenario", "requests", "start-up", "over capacity", "prefill need", "decode need")


def write_markdown(path: Path, trials: Sequence[Trial], command: str, failures: Sequence[str]) -> None:
    """The whole report; `failures` are bounds that did not hold."""
    rows = rows_of(trials)
    verdict = "\n".join(f"- {line}" for line in failures) or "All bounds hold."
    parts = [
        "# Autoscalers in the simulator",
        f"Simulated, no hardware is meant. Made by `{command}`, explained in [docs](../../docs/simulate.md).",
        "## Over all scenarios",
        markdown(SUMMARY_HEADS, [summary_cells(summary) for summary in summaries(rows)]),
        "## Bounds",
        verdict,
        "## What is not judged",
        markdown(EXCLUDED_HEADS, excluded_cells(trials)),
        "## Each scenario",
        markdown(SCENARIO_HEADS, [row_cells(row) for row in rows]),
    ]
    path.write_text("\n\n".join(parts) + "\n")


def write_json(path: Path, trials: Sequence[Trial], command: str, failures: Sequence[str]) -> None:
    found: dict[str, Any] = {
        "command": command,
        "failures": list(failures),
        "rows": [asdict(row) for row in rows_of(trials)],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")
