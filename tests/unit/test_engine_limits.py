"""What an engine of the project cannot honour is refused in the same words by the operator and by `proa up`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from proa_operator.api.load import load
from proa_operator.api.service import ServiceSpec
from proa_operator.cli.main import app
from proa_operator.cli.render_settings import chart_defaults
from proa_operator.errors import PlanError
from proa_operator.local.refusals import refuse
from proa_operator.render import Service, refusals
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
ADVICE = (
    ("type: vllm", "type: sim"),
    ("dtype: fp8", "dtype: bfloat16"),
    ("mtp: 1", "mtp: 0"),
    ("backend: mori", "backend: auto"),
)
"""What makes an example of engine vllm one of engine sim."""
SETTINGS = chart_defaults()
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("overlap.twoBatch", {"overlap": {"twoBatch": "on"}}),
    ("overlap.prefillDelayer", {"overlap": {"prefillDelayer": "on"}}),
    ("overlap.farskip", {"overlap": {"farskip": "on"}}),
    ("overlap.farskip", {"overlap": {"farskip": "force"}}),
    ("speculative.mtp", {"speculative": {"mtp": 1}}),
]


def spec_of(engine: str, **decode: Any) -> ServiceSpec:
    asked = {"engine": {"type": engine}, "pools": {"prefill": {}, "decode": decode}}
    return ServiceSpec.model_validate_json(json.dumps({"model": {"uri": "bundled://m", "name": "m"}, **asked}))


def from_operator(spec: ServiceSpec) -> list[str]:
    service = Service(name="s", namespace="default", uid="", spec=spec)
    return [str(one) for one in refusals(service, settings=SETTINGS)]


def from_proa_up(spec: ServiceSpec) -> list[str]:
    """proa up stops at the first."""
    try:
        refuse(spec)
    except PlanError as error:
        return [str(error)]
    return []


@pytest.mark.parametrize("engine", ["native", "sim"])
@pytest.mark.parametrize(("field", "decode"), ASKED)
def test_what_an_engine_would_ignore_is_refused_in_one_wording(engine: str, field: str, decode: dict[str, Any]) -> None:
    spec = spec_of(engine, **decode)
    (said,) = from_operator(spec)
    assert said.startswith(f"spec.pools.decode.{field}: ")
    assert f"engine {engine} " in said
    assert "; set " in said
    assert from_proa_up(spec) == [said]


@pytest.mark.parametrize("engine", ["native", "sim"])
def test_what_an_engine_does_by_itself_is_no_reason(engine: str) -> None:
    off = {"overlap": {"twoBatch": "off", "prefillDelayer": "off", "farskip": "off"}, "speculative": {"mtp": 0}}
    for spec in (spec_of(engine), spec_of(engine, **off)):
        assert from_operator(spec) == from_proa_up(spec) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_or_its_head_says_what_refuses_it_and_what_runs(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    refused = [line for line in from_operator(load(path).spec) if line.startswith("spec.engine.type: ")]
    assert ("# Engine vllm is refused" in text) == bool(refused) == bool(from_proa_up(load(path).spec))
    for said, instead in ADVICE:
        text = text.replace(said, instead)
    copy = tmp_path / path.name
    copy.write_text(text)
    assert from_operator(load(copy).spec) == []


@pytest.mark.parametrize("row", ADVICE[1:])
def test_what_engine_sim_refuses_of_an_example_is_named_by_validate(row: tuple[str, str], tmp_path: Path) -> None:
    text = (ROOT / "examples" / "deepseek-v3-mi355x.yaml").read_text()
    manifest = tmp_path / "service.yaml"
    manifest.write_text(text.replace(*ADVICE[0]))
    field = row[0].partition(":")[0]
    said = CliRunner().invoke(app, ["validate", str(manifest), "--output", "json"])
    assert (said.exit_code, said.stderr) == (0, "")
    (named,) = [line for line in json.loads(said.stdout)["refused"] if f"{field}: engine sim " in line]
    assert "; set " in named
    lines = CliRunner().invoke(app, ["validate", str(manifest)]).stdout.splitlines()
    assert f"{manifest}: the operator would refuse it: {named}" in lines
