"""`proa`: the commands, and the one place where an error becomes an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from proa_operator.errors import ProaError

# NOTE: imported when asked for, so that `proa version` does not pay for httpx, grpc and plotting.
_COMMANDS = {
    "up": "proa_operator.cli.up",
    "demo": "proa_operator.cli.demo",
    "bench": "proa_operator.bench.cli",
    "validate": "proa_operator.cli.validate",
    "version": "proa_operator.cli.version",
}
INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands in the order of use, each imported on its first use."""

    # NOTE: Any, for typer has click inside or beside it, depending on its version.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(cmd_name)(getattr(import_module(module), cmd_name))
        return typer.main.get_command(single)


app = typer.Typer(
    name="proa",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def proa() -> None:
    """Serve mixture-of-experts models with prefill and decode in separate pools."""


def main() -> None:
    """Entry point. Exit code 0, 1 for a failure, 2 for a mistake of the user, 130 after an interrupt."""
    try:
        app()
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
