"""`proa`: the commands, and the one place where an error becomes an exit code."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from proa_operator.cli.commands import COMMANDS, Command
from proa_operator.errors import ProaError

INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands in the order of use. Help knows them by their line in COMMANDS; a run imports its one command."""

    # NOTE: Any, for typer has click inside or beside it, depending on its version.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = COMMANDS.get(cmd_name)
        return found and TyperCommand(cmd_name, help=found.help, rich_help_panel=found.panel, rich_markup_mode="rich")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        found = COMMANDS.get(args[0])
        return (args[0], loaded(args[0], found), args[1:]) if found else super().resolve_command(ctx, args)


def loaded(name: str, command: Command) -> Any:
    """The command itself; a module holds it as a function of its name, or as an app with commands of its own."""
    found = getattr(import_module(command.module), name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(name, help=flowing(found.__doc__))(found)
    return typer.main.get_command(single)


def flowing(docstring: str) -> str:
    """Paragraphs without the line breaks of the source, which the help would keep."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


app = typer.Typer(
    name="proa",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"proa {version('proa')}")
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_say_version, is_eager=True, help="Print proa's version and end.")


@app.callback()
def proa(is_version: Annotated[bool, _VERSION] = False) -> None:
    """Serve mixture-of-experts models with prefill and decode in separate pools."""


def main() -> None:
    """Entry point. Exit code 0, 1 for a failure, 2 for a mistake of the user, 130 after an interrupt."""
    try:
        app(prog_name="kubectl proa" if os.path.basename(sys.argv[0]).startswith("kubectl") else None)
    except ProaError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def complain(text: str) -> None:
    """Each line of `text` on stderr, marked as an error."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for line in text.splitlines():
        console.print(Text.assemble(("error: ", "bold red"), line))


if __name__ == "__main__":
    main()
