"""Pictures of a suite: cost against attainment of each autoscaler, and what Proa did in each scenario."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proa_operator.simulate.bounds import LEAST_ATTAINMENT, summaries
from proa_operator.simulate.need import BIN_SECONDS, smooth
from proa_operator.simulate.report import rows_of
from proa_operator.simulate.suite import ORACLE, PROA, Trial

PREFILL, DECODE, OTHER = "#1f5fa8", "#c8501e", "#777777"


def write_plots(folder: Path, trials: Sequence[Trial]) -> None:
    """frontier.png and scenarios.png. Raises OSError."""
    frontier(trials).savefig(folder / "frontier.png", dpi=120)
    timelines(trials).savefig(folder / "scenarios.png", dpi=80)


def frontier(trials: Sequence[Trial]) -> Figure:
    """Up and left is better."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for summary in summaries(rows_of(trials)):
        x, y = summary.median_cost, 100 * summary.mean_attainment
        color = {PROA: DECODE, ORACLE: PREFILL}.get(summary.policy, OTHER)
        axes.scatter(x, y, color=color, s=36)
        axes.annotate(summary.policy, (x, y), xytext=(6, 3), textcoords="offset points", fontsize=8, color=color)
    axes.axhline(100 * LEAST_ATTAINMENT, color=OTHER, linestyle=":", linewidth=1)
    axes.set_xlabel("GPU hours over the oracle's (median over the scenarios)")
    axes.set_ylabel("SLO attainment in % (mean over the scenarios)")
    axes.set_title("simulated: outside start-up windows and over capacity; up and left is better", fontsize=9)
    axes.grid(alpha=0.3)
    return figure


def timelines(trials: Sequence[Trial]) -> Figure:
    """For each scenario the fluid need (thin), Proa's ready groups (thick) and intervals that are not judged (grey)."""
    num_rows = ceil(len(trials) / 3)
    figure = Figure(figsize=(15, 2.8 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, 3, squeeze=False).ravel()
    for axes, trial in zip(panels, trials, strict=False):
        _timeline(axes, trial)
    for axes in panels[len(trials) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _timeline(axes: Axes, trial: Trial) -> None:
    experiment, outcome = trial.experiment, trial.outcomes[PROA]
    minutes = np.arange(len(experiment.need.prefill)) * BIN_SECONDS / 60
    counts = np.array(outcome.counts)
    pools = (("prefill", PREFILL, experiment.need.prefill, 1), ("decode", DECODE, experiment.need.decode, 2))
    for name, color, need, column in pools:
        axes.plot(minutes, smooth(need, 13), color=color, linewidth=0.8, label=f"{name}: need")
        axes.step(counts[:, 0] / 60, counts[:, column], color=color, where="post", label=f"{name}: ready groups")
    excluded = experiment.windows.startup | experiment.windows.over_capacity
    axes.fill_between(minutes, 0, 1, where=excluded, color=OTHER, alpha=0.25, transform=axes.get_xaxis_transform())
    axes.set_title(experiment.scenario.name, fontsize=9)
    axes.set_xlabel("minutes", fontsize=8)
    axes.set_ylim(bottom=0)
