"""`--watch` where no terminal redraws: once for each change, as one document each."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import yaml
from proa_operator.cli import watching
from proa_operator.cli.output import Output


@dataclass(frozen=True)
class View:
    num_groups: int


class Over(Exception):
    """The interrupt."""


async def watch(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCH_SECONDS", 0)
    readings = iter([1, 1, 2, 2, 1])

    async def read() -> View:
        number = next(readings, None)
        if number is None:
            raise Over
        return View(number)

    with pytest.raises(Over):
        await watching.follow(read, output, lambda view: f"groups: {view.num_groups}")


async def test_a_table_for_each_change(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    await watch(Output.TABLE, monkeypatch)
    assert capsys.readouterr().out.split("\n") == ["groups: 1", "groups: 2", "groups: 1", ""]


async def test_a_yaml_document_for_each_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await watch(Output.YAML, monkeypatch)
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == [{"numGroups": number} for number in (1, 2, 1)]


async def test_a_json_document_for_each_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await watch(Output.JSON, monkeypatch)
    told, decoder = capsys.readouterr().out, json.JSONDecoder()
    found = []
    while told.strip():
        value, end = decoder.raw_decode(told.lstrip())
        found.append(value["numGroups"])
        told = told.lstrip()[end:]
    assert found == [1, 2, 1]
