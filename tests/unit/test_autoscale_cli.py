"""`proa replay` and `proa size`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator.api.load import load
from proa_operator.autoscale.config import GUESS
from proa_operator.autoscale.cost import decode_seconds, fixed_seconds, prompt_seconds
from proa_operator.autoscale.estimate import GPUS, SHAPES, estimate
from proa_operator.cli.replay import replay
from proa_operator.cli.size import size
from proa_operator.errors import ManifestError, ServeError, UserError
from proa_operator.local.autoscale_profile import load_profile

from tests.unit.autoscale_cases import config, run


def lines(*, changed: bool = False) -> list[str]:
    records = [json.loads(json.dumps(decision.record)) for decision in run([1.0] * 3, config())]
    if changed:
        records[1]["outcome"]["targets"]["prefill"] = 7
    return [json.dumps(record) for record in records]


def test_replay_reads_records_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, log = tmp_path / "decisions.jsonl", tmp_path / "log"
    own.write_text("\n".join(lines()))
    entries = [json.dumps({"message": "autoscaler decision", "decision": line}) for line in lines()]
    log.write_text("\n".join(["not json", json.dumps({"message": "took over"}), *entries]))
    for file in (own, log):
        replay(file)
        assert "3 of 3 records replayed bit for bit" in capsys.readouterr().out


def test_replay_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text("\n".join(lines(changed=True)))
    with pytest.raises(ServeError, match="1 of 3 records came out otherwise"):
        replay(file)
    assert "record.outcome.targets.prefill: recorded 7, now 1" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "hello", "{}"])
def test_replay_refuses_what_holds_no_record(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x"
    file.write_text(text)
    with pytest.raises(UserError, match="holds no decision record"):
        replay(file)
    with pytest.raises(UserError, match="cannot be read"):
        replay(tmp_path / "absent")


@pytest.mark.parametrize(
    ("model", "gpu", "rate"),
    [("Qwen/Qwen3-235B-A22B", "MI355X", 20.0), ("hf://deepseek-ai/DeepSeek-V3", "MI300X", 100.0)],
)
def test_what_size_writes_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, gpu: str, rate: float
) -> None:
    size(model, gpu, ttft=500, itl=40, rate=rate)
    text = capsys.readouterr().out
    assert text.count("ESTIMATE") == 2
    service, profile = text.split("---\n")
    (tmp_path / "service.yaml").write_text(service)
    (tmp_path / "profile.yaml").write_text(profile)
    (tmp_path / "both.yaml").write_text(text)
    assert load_profile(tmp_path / "both.yaml") == load_profile(tmp_path / "profile.yaml")
    assert load(tmp_path / "both.yaml") == load(tmp_path / "service.yaml")
    spec, speeds = load(tmp_path / "service.yaml").spec, load_profile(tmp_path / "profile.yaml")
    assert speeds.accelerator == spec.accelerator
    assert speeds.parallelism == spec.pools.decode.parallelism
    assert (speeds.model, speeds.dtype, speeds.engine) == (spec.model.uri, spec.model.dtype, spec.engine.type)
    assert all(isinstance(value, str) for value in yaml.safe_load(profile)["spec"]["decode"].values())
    assert all("e" not in value for value in yaml.safe_load(profile)["spec"]["decode"].values())


@pytest.mark.parametrize("text", ["", "kind: Pod\n---\nkind: Pod\n", "kind: PerformanceProfile\n---\n" * 2])
def test_a_file_without_the_one_profile_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ManifestError, match="PerformanceProfiles; keep exactly one in it"):
        load_profile(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "x/y"}, "not a known checkpoint"),
        ({"gpu": "GTX"}, "known are MI300X"),
        ({"ttft": 1}, "--ttft cannot be met"),
        ({"itl": 1}, "--itl cannot be met"),
        ({"rate": 1e6}, "split the load"),
    ],
)
def test_size_says_what_to_change(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": "Qwen/Qwen3-30B-A3B", "gpu": "MI300X", **changes}
    with pytest.raises(UserError, match=message):
        size(**arguments)


def test_the_estimate_is_near_what_was_measured() -> None:
    """GUESS was fitted to vLLM on an H200 with the shapes of Qwen3-30B-A3B, see the simulated engine's cost model."""
    speed = estimate(SHAPES["Qwen/Qwen3-30B-A3B"], GPUS["H200"], 1)
    for num_seqs in (1, 8, 32, 128, 256):
        pairs = [fixed_seconds(one, num_seqs) + decode_seconds(one, num_seqs, 256.0) for one in (speed, GUESS)]
        assert pairs[0] == pytest.approx(pairs[1], rel=0.15)
    pairs = [prompt_seconds(one, 2048.0, 0.0) for one in (speed, GUESS)]
    assert pairs[0] == pytest.approx(pairs[1], rel=0.25)
