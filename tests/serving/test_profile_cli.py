"""`proa profile` measures a real worker, and what it writes is a PerformanceProfile."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from proa_operator.api.performance_profile import PerformanceProfile
from proa_workers.sim.cost import CostModel

ROOT = Path(__file__).parents[2]


def profile(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "proa_operator.cli.main", "profile", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


COST = CostModel(
    step_base_seconds=0.05,
    step_experts_seconds=0.0,
    decode_seq_seconds=0.002,
    provenance="simulated: slow, so that what a busy machine adds to a step is small",
)


def test_a_simulated_worker_is_as_fast_as_its_cost_model(tmp_path: Path) -> None:
    out, manifest = tmp_path / "profile.yaml", yaml.safe_load((ROOT / "examples/sim.yaml").read_text())
    (tmp_path / "cost.yaml").write_text(yaml.safe_dump(asdict(COST)))
    manifest["spec"]["engine"]["args"] = ["--sim-profile", str(tmp_path / "cost.yaml")]
    (tmp_path / "sim.yaml").write_text(yaml.safe_dump(manifest))
    done = profile(str(tmp_path / "sim.yaml"), "--seconds=8", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "mean relative error of the fit" in done.stderr
    spec = PerformanceProfile.model_validate_json(json.dumps(yaml.safe_load(out.read_text("utf-8")))).spec
    assert (spec.provenance.origin, spec.kv_bytes_per_token) == ("simulated", COST.kv_bytes_per_token)
    single = float(spec.step.base_seconds) + float(spec.step.experts_seconds) * float(spec.step.expert_share)
    # A busy machine makes steps longer, never shorter.
    assert 0.6 <= single / COST.step_seconds(decode_seqs=1) <= 1.9, done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("no-such.yaml",), "no-such.yaml"),
        (("examples/deepseek-v3-mi300x.yaml",), "proa up"),
        (("examples/sim.yaml", "--seconds=1", "--out=/no/such/folder/p.yaml"), "cannot be written"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], line: str) -> None:
    done = profile(*arguments)
    assert done.returncode in (1, 2)
    assert line in done.stderr
    assert "Traceback" not in done.stderr
