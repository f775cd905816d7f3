"""`proa simulate`: bad options, what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from proa_operator.cli.main import app
from proa_operator.errors import UserError
from proa_operator.simulate import cli, scenarios
from proa_operator.simulate.cost import cost_from
from proa_operator.simulate.defaults import PROFILE, SLO
from proa_operator.simulate.errors import BoundError, SimulateError
from proa_operator.simulate.generated import generated
from proa_operator.simulate.policies.policy import Slo
from typer.testing import CliRunner


def invoke(*arguments: str) -> object:
    return CliRunner().invoke(app, ["simulate", *arguments])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--quick"),
        (["--quick", "--out", "nowhere"], "make it first"),
        (["--quick", "--only", "no such"], "leave --only out"),
        (["--quick", "--trace", "nowhere.jsonl", "--only", "trace"], "nowhere.jsonl"),
        (["--quick", "--profile", "nowhere.yaml"], "give a PerformanceProfile"),
    ],
)
def test_bad_options_are_one_line_with_the_fix(arguments: list[str], text: str) -> None:
    error = invoke(*arguments).exception  # type: ignore[attr-defined]
    assert isinstance(error, UserError)
    assert error.exit_code == 2
    assert text in str(error)
    assert "\n" not in str(error)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scenario of ten minutes."""
    monkeypatch.setattr(cli, "SCENARIOS", (scenarios.step,))
    monkeypatch.setattr(cli, "QUICK_SECONDS", 600)
    monkeypatch.setattr(cli, "QUICK_GENERATED", 0)


@pytest.mark.usefixtures("short")
def test_results_are_printed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "failures_of", lambda rows: [])
    result = invoke("--suite", "--quick", "--out", str(tmp_path))
    assert result.exception is None  # type: ignore[attr-defined]
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["policy"] for row in rows[:2]] == ["oracle", "Proa"]
    assert "All bounds hold." in (tmp_path / "results.md").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {"frontier.png", "scenarios.png"}


@pytest.mark.usefixtures("short")
def test_a_broken_bound_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proa_operator.simulate.bounds.LEAST_ATTAINMENT", 1.01)
    error = invoke("--quick").exception  # type: ignore[attr-defined]
    assert isinstance(error, BoundError)
    assert error.exit_code == 1
    assert not isinstance(error, SimulateError)


def test_a_profile_that_misses_the_objectives_with_one_request_is_refused() -> None:
    with pytest.raises(SimulateError, match="raise --ttft"):
        scenarios.service_for(PROFILE, Slo(ttft_seconds=0.5, itl_seconds=0.04))
    with pytest.raises(SimulateError, match="raise --itl"):
        scenarios.service_for(PROFILE, Slo(ttft_seconds=6.0, itl_seconds=0.005))


def test_a_profile_gets_as_much_load_as_its_speed_asks_for() -> None:
    same = scenarios.service_for(PROFILE, SLO)
    assert same.load == pytest.approx(1.0)
    assert same.cost == cost_from(PROFILE)
    prefill = PROFILE.prefill.model_copy(update={"token_seconds": "50e-6"})
    quick = scenarios.service_for(PROFILE.model_copy(update={"prefill": prefill}), SLO)
    assert quick.load > 1.5
    plain, busy = (scenarios.step(service, 300, np.random.default_rng(1)) for service in (same, quick))
    assert len(busy.traffic) == pytest.approx(quick.load * len(plain.traffic), rel=0.1)


def test_generated_scenarios_depend_on_the_seed_only() -> None:
    service = scenarios.Service(cost=cost_from(PROFILE))
    first, again, other = (generated(service, 900, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.traffic.arrival_seconds, again.traffic.arrival_seconds)
    assert np.array_equal(first.traffic.cached_tokens, again.traffic.cached_tokens)
    assert len(first.traffic) != len(other.traffic)
    assert (first.traffic.cached_tokens < first.traffic.prompt_tokens).all()


def test_trace_hits_follow_the_prefix_blocks(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]},
        {"timestamp": 10, "input_length": 1024, "output_length": 5, "hash_ids": [1, 2]},
        {"timestamp": 20, "input_length": 1100, "output_length": 5, "hash_ids": [1, 9, 3]},
        {"timestamp": 99_000, "input_length": 10, "output_length": 5, "hash_ids": [1]},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    recorded = scenarios.recorded(scenarios.Service(cost=cost_from(PROFILE)), path, 60).traffic
    assert recorded.cached_tokens.tolist() == [0, 1023, 512]
