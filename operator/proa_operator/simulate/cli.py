"""The `proa simulate` command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from proa_operator.local.autoscale_profile import load_profile
from proa_operator.simulate import defaults
from proa_operator.simulate.bounds import failures_of, summaries
from proa_operator.simulate.cost import cost_from
from proa_operator.simulate.errors import BoundError, SimulateError
from proa_operator.simulate.generated import generated
from proa_operator.simulate.policies.policy import Slo
from proa_operator.simulate.report import (
    EXCLUDED_HEADS,
    SCENARIO_HEADS,
    SUMMARY_HEADS,
    excluded_cells,
    row_cells,
    rows_of,
    summary_cells,
    table,
    write_json,
    write_markdown,
)
from proa_operator.simulate.scenario import Scenario
from proa_operator.simulate.scenarios import SCENARIOS, Service, recorded, service_for
from proa_operator.simulate.suite import Trial, trial

QUICK_SECONDS, SUITE_SECONDS = 3000, 5400
QUICK_GENERATED, SUITE_GENERATED = 1, 3


def simulate(
    suite: Annotated[bool, typer.Option("--suite", help="All scenarios, 90 minutes each.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The suite with 50 minutes each: within a minute of a free core.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only scenarios whose name contains this; repeatable.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Recorded trace (JSON Lines) as one more scenario.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="PerformanceProfile of the groups, as `proa profile` writes it.")
    ] = None,
    ttft: Annotated[float, typer.Option(help="Objective in ms, with --profile.", min=1.0)] = 6000.0,
    itl: Annotated[float, typer.Option(help="Objective in ms, with --profile.", min=0.1)] = 40.0,
    seed: Annotated[int, typer.Option(help="Draws arrivals and lengths.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json, results.md and pictures.")] = None,
) -> None:
    """Try the autoscaler and its rivals on simulated traffic: SLO attainment, GPU hours, reversals.

    Virtual time, no hardware is meant. Exit code 1 when a bound of the suite fails, 2 for bad options.
    """
    if not (suite or quick):
        raise SimulateError("choose what to run: --suite (several minutes) or --quick (a minute)")
    if out is not None and not out.is_dir():
        raise SimulateError(f"--out {out} is not a folder: make it first")
    service = None
    if profile is not None:
        service = service_for(load_profile(profile), Slo(ttft_seconds=ttft / 1000, itl_seconds=itl / 1000))
    chosen = [each for each in scenarios(not quick, trace, seed, service) if _is_wanted(each.name, only or [])]
    if not chosen:
        raise SimulateError(f"no scenario is called like {', '.join(only or [])}; leave --only out to run all")
    failures = run(chosen, out)
    if failures:
        raise BoundError("\n".join(failures))


def scenarios(is_long: bool, trace: Path | None, seed: int, given: Service | None = None) -> Iterator[Scenario]:
    """Named ones, generated ones, and the trace when there is one; of the built-in service when none is given."""
    seconds, num_generated = (SUITE_SECONDS, SUITE_GENERATED) if is_long else (QUICK_SECONDS, QUICK_GENERATED)
    service = given or Service(cost=cost_from(defaults.PROFILE))
    for scenario_idx, build in enumerate(SCENARIOS):
        yield build(service, seconds, np.random.default_rng([seed, scenario_idx]))
    for generated_idx in range(num_generated):
        yield generated(service, seconds, 1000 * seed + generated_idx)
    if trace is not None:
        recording = given or Service(cost=cost_from(defaults.TRACE_PROFILE), slo=defaults.TRACE_SLO)
        yield recorded(recording, trace, seconds)


def run(chosen: list[Scenario], out: Path | None) -> list[str]:
    """Runs, prints, writes; returns the bounds that failed."""
    progress, console = Console(stderr=True, highlight=False), Console()
    trials: list[Trial] = []
    for scenario in chosen:
        trials.append(trial(scenario))
        progress.print(f"{len(trials)}/{len(chosen)} {scenario.name}")
    rows = rows_of(trials)
    failures = failures_of(rows)
    mine = [row_cells(row) for row in rows if row.policy in ("Proa", "oracle")]
    console.print(table("Not judged, and groups that are busy all the time", EXCLUDED_HEADS, excluded_cells(trials)))
    console.print(table("Proa against the bound", SCENARIO_HEADS, mine))
    console.print(table("Over all scenarios", SUMMARY_HEADS, [summary_cells(each) for each in summaries(rows)]))
    if out is not None:
        _write(out, trials, failures)
    return failures


def _write(out: Path, trials: list[Trial], failures: list[str]) -> None:
    from proa_operator.simulate.plot import write_plots  # NOTE: matplotlib costs a second

    command = shlex.join(["proa", *(_bare(argument) for argument in sys.argv[1:])])
    write_json(out / "results.json", trials, command, failures)
    write_markdown(out / "results.md", trials, command, failures)
    write_plots(out, trials)


def _bare(argument: str) -> str:
    """Files by their last name: where they lay on one machine tells nobody anything."""
    return Path(argument).name if "/" in argument else argument


def _is_wanted(name: str, only: list[str]) -> bool:
    return not only or any(part in name for part in only)
