"""`proa demo`."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from proa_operator.cli import params
from proa_operator.cli.ask import ask
from proa_operator.cli.local_options import local_options
from proa_operator.cli.up import invitation
from proa_operator.errors import PlanError
from proa_operator.local.prepare import prepare
from proa_operator.local.process import LocalPlan
from proa_operator.local.serve import serve
from proa_operator.local.view import PlainView

QUESTION = "What is a proa?"
MANIFEST = "tiny.yaml"


def demo(
    question: Annotated[str, typer.Argument(help="What to ask.")] = QUESTION,
    prefill: params.Prefill = None,
    decode: params.Decode = None,
    aggregated: params.Aggregated = False,
    workers: params.Workers = None,
    port: params.Port = None,
    device: params.DeviceChoice = params.Device.AUTO,
    once: Annotated[bool, typer.Option("--once", help="Stop after the answer (exit code 0).")] = False,
) -> None:
    """Serve the bundled model, ask it one question, print the answer as it streams, with TTFT and tokens/s."""
    options = local_options(
        prefill=prefill,
        decode=decode,
        aggregated=aggregated,
        workers=workers,
        host="127.0.0.1",
        port=port,
        device=device,
    )
    plan = prepare(_manifest(), options)
    console = Console()
    console.print(_summary(plan), soft_wrap=True, highlight=False, markup=False)
    view = PlainView(console)
    asyncio.run(serve(plan, view, lambda _: _show(plan, console, question, is_once=once)))


async def _show(plan: LocalPlan, console: Console, question: str, *, is_once: bool) -> None:
    console.print(Text.assemble("\n", ("you", "bold"), f"    {question}\n", ("model", "bold"), "  "), end="")
    answer = await ask(plan.url, plan.model_name, question, lambda text: console.out(text, end="", highlight=False))
    console.print(
        f"\n\nTTFT {answer.ttft_seconds * 1000:.0f} ms, {answer.tokens_per_second:.0f} tokens/s "
        f"({answer.num_tokens} tokens)\n",
        style="green",
        highlight=False,
    )
    if not is_once:
        console.print(invitation(plan), soft_wrap=True)
        console.print("Ctrl-C stops.", style="dim")
        await asyncio.Event().wait()


def _summary(plan: LocalPlan) -> str:
    numbers = Counter(process.role.value for process in plan.processes)
    parts = ", ".join(f"{number} {role}" for role, number in numbers.items())
    return f"Starting {plan.model_name} on this machine: {parts}. Logs: {plan.state_dir}"


def _manifest() -> Path:
    """Inside the installed package, or in the checkout of an editable installation."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "bundled", package.parents[1] / "examples"):
        if (folder / MANIFEST).is_file():
            return folder / MANIFEST
    raise PlanError(f"{MANIFEST} is missing from this installation: install proa again")
