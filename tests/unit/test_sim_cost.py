"""Cost model and profile files: values, purity, and one-line errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from proa_workers.errors import SettingsError
from proa_workers.sim.cost import CostModel, attended_pairs, cost_model_from
from proa_workers.sim.profile import SimProfile, read_profile

DENSE = CostModel(
    step_base_seconds=1.0,
    step_experts_seconds=8.0,
    expert_share=0.0,
    prefill_token_seconds=0.1,
    prefill_pair_seconds=0.01,
    decode_seq_seconds=0.2,
    decode_context_token_seconds=0.001,
    provenance="simulated: round numbers",
)


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        ({}, 0.0),
        ({"decode_seqs": 1}, 1.2),
        ({"decode_seqs": 10, "decode_context": 1000}, 4.0),
        ({"prefill_tokens": 4, "prefill_pairs": attended_pairs(0, 4)}, 1.5),
        ({"prefill_tokens": 4, "prefill_pairs": attended_pairs(100, 4), "decode_seqs": 1}, 5.7),
    ],
)
def test_a_dense_model_is_linear(work: dict[str, int], seconds: float) -> None:
    assert DENSE.step_seconds(**work) == pytest.approx(seconds)


@pytest.mark.parametrize(("batch", "measured_ms"), [(1, 4.10), (8, 8.89), (32, 15.0), (128, 18.7), (256, 21.9)])
def test_defaults_follow_the_steps_they_were_fitted_to(batch: int, measured_ms: float) -> None:
    step = CostModel().step_seconds(decode_seqs=batch, decode_context=256 * batch)
    assert step * 1e3 == pytest.approx(measured_ms, rel=0.06)


def test_default_prefill_rate_and_transfer() -> None:
    step = CostModel().step_seconds(prefill_tokens=8192, prefill_pairs=4 * attended_pairs(0, 2048))
    assert 8192 / step == pytest.approx(67_900, rel=0.02)
    assert CostModel().transfer_seconds(8192) == pytest.approx(1e-3 + 8192 * 98_304 / 45e9)


def test_pairs_of_chunks_add_up() -> None:
    assert attended_pairs(0, 10) == 55 == attended_pairs(0, 4) + attended_pairs(4, 6)


def test_cost_model_is_pure() -> None:
    heavy = "torch numpy yaml grpc asyncio tokenizers"
    code = f"import sys, proa_workers.sim.cost; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_profile_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text("provenance: 'measured: here'\nstep_base_seconds: 0.5\nmean_output_tokens: 40\n")
    profile = read_profile(path)
    assert profile == SimProfile(
        cost=CostModel(provenance="measured: here", step_base_seconds=0.5), mean_output_tokens=40.0
    )
    assert cost_model_from({}, "nothing") == CostModel()


def test_a_performance_profile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(
        "kind: PerformanceProfile\nspec:\n"
        "  step: {baseSeconds: '0.002', expertShare: '0.05'}\n  prefill: {tokenSeconds: '1.1e-05'}\n"
        "  decode: {sequenceSeconds: '2e-05'}\n  kvBytesPerToken: 9216\n  kvCacheTokens: 1000\n  startupSeconds: 7\n"
        "  provenance: {origin: measured, date: '2026-01-31', source: here}\n"
    )
    cost = read_profile(path).cost
    assert (cost.step_base_seconds, cost.expert_share, cost.prefill_token_seconds) == (0.002, 0.05, 1.1e-5)
    assert (cost.kv_bytes_per_token, cost.startup_seconds) == (9216, 7.0)
    assert (cost.step_experts_seconds, cost.transfer_latency_seconds) == (0.0, CostModel().transfer_latency_seconds)
    assert cost.provenance == "measured: here, 2026-01-31"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("a: [", "is not YAML: .*line 1"),
        ("[1]", "must be a mapping"),
        ("provenance: x\nstep_base_second: 1", "unknown key step_base_second; known are step_base_seconds,"),
        ("step_base_seconds: 1", "provenance is missing"),
        ("provenance: x", "provenance must start with 'measured' or 'simulated'"),
        ("provenance: simulated\nstep_base_seconds: fast", "step_base_seconds must be a number, got 'fast'"),
        ("provenance: simulated\nstep_base_seconds: true", "step_base_seconds must be a number, got True"),
        ("provenance: simulated\nstep_base_seconds: -1", "step_base_seconds must be 0 or more, got -1"),
        ("provenance: simulated\nprefill_pair_seconds: .nan", "prefill_pair_seconds must be 0 or more, got nan"),
        ("provenance: simulated\nexpert_share: 2", r"expert_share must be in 0..1, got 2"),
        ("provenance: simulated\ntransfer_bytes_per_second: 0", "transfer_bytes_per_second and kv_cache_tokens"),
        ("kind: PerformanceProfile\nspec: {}", "no complete PerformanceProfile"),
        ("provenance: 3", "provenance must be text, got 3"),
        ("provenance: simulated\nmean_output_tokens: 0.5", "mean_output_tokens must be 0 or at least 1, got 0.5"),
    ],
)
def test_bad_profiles_are_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "profile.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_profile(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
