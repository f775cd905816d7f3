"""`proa replay`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from proa_operator.autoscale.codec import from_json
from proa_operator.autoscale.explain import describe
from proa_operator.autoscale.replay import Replay
from proa_operator.autoscale.replay import replay as replay_record
from proa_operator.autoscale.signals import Signals
from proa_operator.cli.output import Output, as_text
from proa_operator.cli.where import Format
from proa_operator.errors import ServeError, UserError

_SHOWN = 5


def replay(
    file: Annotated[Path, typer.Argument(metavar="RECORD", help="Decision records, one JSON object a line.")],
    output: Format = Output.TABLE,
) -> None:
    """Decide again from recorded decisions, and show whether the results are the same, bit for bit.

    RECORD is decisions.jsonl of `proa up` (decisions.1.jsonl: the ones before), a log of the operator in JSON, or one
    record. Exit code 1 for a difference.
    """
    found = [(number, replay_record(record)) for number, record in records_of(file)]
    if not found:
        raise UserError(f"{file}: holds no decision record: give decisions.jsonl, or the operator's JSON log")
    different = [(number, again) for number, again in found if again.differences]
    if output is Output.TABLE:
        _print(found)
    else:
        numbers = {"records": len(found), "different": [number for number, _ in different]}
        typer.echo(as_text(numbers, output))
    if different:
        raise ServeError(f"{len(different)} of {len(found)} records came out otherwise: another version wrote them")


def records_of(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and records; lines of a log that hold none are passed over."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{file}: cannot be read ({why}): give a file with decision records") from None
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line) if line.strip() else None
        except ValueError:
            continue
        if isinstance(entry, dict) and "decision" in entry:
            entry = json.loads(entry["decision"])
        if isinstance(entry, dict) and "outcome" in entry:
            yield number, entry


def _print(found: list[tuple[int, Replay]]) -> None:
    for number, again in found:
        if again.differences or len(found) <= _SHOWN:
            signals = from_json(Signals, again.decision.record["signals"], "signals")
            typer.echo(f"line {number}: {describe(signals, again.decision)}")
        for difference in again.differences[:_SHOWN]:
            typer.echo(f"  {difference}")
    same = sum(not again.differences for _, again in found)
    typer.echo(f"{same} of {len(found)} records replayed bit for bit")
