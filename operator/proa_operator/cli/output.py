"""How commands print: a table for people, JSON and YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table


class Output(StrEnum):
    """Format of what goes to stdout."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def show(value: Any, output: Output, table: Callable[[], RenderableType]) -> None:
    """Print `value`, a dataclass or plain objects, in the format asked for."""
    if output is Output.TABLE:
        console().print(table())
    else:
        typer.echo(as_text(value, output))


def as_text(value: Any, output: Output) -> str:
    """JSON, or YAML with one document for a list of objects."""
    bare = plain(value)
    if output is Output.JSON:
        return json.dumps(bare, indent=2)
    import yaml  # NOTE: costs a table its start

    text: str = yaml.safe_dump(bare, sort_keys=False, width=120)
    return text.rstrip("\n")


def plain(value: Any) -> Any:
    """Dataclasses as dicts with the names of their fields in the style of Kubernetes."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {_camel(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return str(value) if isinstance(value, StrEnum) else value


def console() -> Console:
    """On stdout; not narrower than a table needs when it is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=160)


def grid(*headings: str, numbers: int = 0) -> Table:
    """A table without lines; the last `numbers` columns hold numbers. Text from outside goes in as Text, not str."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for position, heading in enumerate(headings):
        is_number = position >= len(headings) - numbers
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    return table


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)
