"""`proa up`."""

from __future__ import annotations

import asyncio
import shlex
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from proa_operator.api.performance_profile import PerformanceProfileSpec
from proa_operator.cli import params
from proa_operator.cli.local_options import local_options
from proa_operator.local.autoscale import autoscale
from proa_operator.local.autoscale_profile import load_profile
from proa_operator.local.prepare import prepare
from proa_operator.local.process import LocalPlan
from proa_operator.local.prometheus import CONFIG
from proa_operator.local.serve import serve
from proa_operator.local.supervise import Supervisor
from proa_operator.local.view import LiveView, PlainView, View


def up(
    file: params.File,
    prefill: params.Prefill = None,
    decode: params.Decode = None,
    aggregated: params.Aggregated = False,
    workers: params.Workers = None,
    host: params.Host = "127.0.0.1",
    port: params.Port = None,
    device: params.DeviceChoice = params.Device.AUTO,
    state_dir: params.StateDir = None,
    profile: params.Profile = None,
    once: Annotated[bool, typer.Option("--once", help="Stop as soon as everything serves (exit code 0).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command lines and start nothing.")] = False,
) -> None:
    """Serve a manifest on this machine, without Kubernetes: one gateway and its workers as processes.

    Workers that end are started again; with spec.autoscaling their number follows the load. The first Ctrl-C lets
    running requests finish, a second one does not.
    """
    options = local_options(
        prefill=prefill,
        decode=decode,
        aggregated=aggregated,
        workers=workers,
        host=host,
        port=port,
        device=device,
    )
    plan = prepare(file, options, state_dir)
    known = load_profile(profile) if profile is not None else None
    if dry_run:
        _print_commands(plan)
        return
    console = Console()
    can_redraw = console.is_terminal and not console.is_dumb_terminal
    view: View = LiveView(console, plan) if can_redraw else PlainView(console)
    for note in plan.notes:
        console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)
    asyncio.run(serve(plan, view, lambda supervisor: _while_serving(plan, view, supervisor, known, is_once=once)))


async def _while_serving(
    plan: LocalPlan, view: View, supervisor: Supervisor, profile: PerformanceProfileSpec | None, *, is_once: bool
) -> None:
    view.say(invitation(plan))
    view.say(_metrics(plan))
    if is_once:
        return
    if plan.scaling is None:
        await asyncio.Event().wait()
    else:
        await autoscale(plan, plan.scaling, profile, supervisor, view)


def invitation(plan: LocalPlan) -> Text:
    """What to type next."""
    body = f'{{"model": "{plan.model_name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    curl = f"curl {plan.url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    return Text.assemble(
        (f"{plan.model_name} is served at {plan.url}/v1 (OpenAI API). Try:\n", "green"),
        (f"  {curl}", "bold"),
    )


def _metrics(plan: LocalPlan) -> Text:
    command = shlex.join(["prometheus", f"--config.file={plan.state_dir / CONFIG}"])
    return Text.assemble(("Metrics, rules and alerts, with Prometheus:\n", "green"), (f"  {command}", "bold"))


def _print_commands(plan: LocalPlan) -> None:
    for process in plan.processes:
        env = [f"{name}={value}" for name, value in process.env]
        typer.echo(shlex.join([*env, *process.argv]))
