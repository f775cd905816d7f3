"""The engine around the decoder: settings, block memory, plans without logits, random weights, progress of dtype."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from proa_kernels.gate_route import route
from proa_workers.core.plan import StepPlan
from proa_workers.engine import native
from proa_workers.engine.device_kv import DeviceKvMemory
from proa_workers.engine.native import NativeEngine, choose_arms
from proa_workers.engine.native_settings import NativeSettings, Placement
from proa_workers.errors import SettingsError
from proa_workers.kv.layout import BlockRun
from proa_workers.kv.memory import probe_pattern
from proa_workers.model import moe
from proa_workers.model.arms import Arms
from proa_workers.model.config import MoeConfig
from proa_workers.model.experts import EXPERTS, check_experts
from proa_workers.model.hf_config import read_config

from tests.model.checkpoints import Harness, random_ids, shuffled_tables

Checkpoint = Callable[[str], Path]
OpenEngine = Callable[..., Harness]


def test_info(checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    info = open_engine(checkpoint("qwen3_moe"), dtype="auto", max_model_len=99).engine.info
    assert (info.model_type, info.architecture, info.vocab_size) == ("qwen3_moe", "Qwen3MoeForCausalLM", 160)
    assert (info.max_model_len, info.bos_token_id, info.dtype, info.device) == (99, 0, "float32", "cpu")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_model_len": 257}, r"max_model_len 257 is out of range; this model serves 1\.\.256"),
        ({"max_model_len": 0}, "out of range"),
        ({"num_blocks": 63}, r"holds 63 blocks of 4 tokens, but max_model_len 256 needs 64; raise"),
        ({"num_blocks": None, "kv_bytes": 1 << 16}, r"needs 64; raise --num-kv-blocks or --kv-cache-memory"),
        ({"num_blocks": 64, "kv_bytes": 1 << 30}, "give one of them"),
        ({"device": "cuda"}, "torch sees no GPU"),
        ({"num_blocks": 1 << 40}, r"does not fit in /dev/shm \(.*\): lower --num-kv-blocks or --kv-cache-memory"),
    ],
)
def test_refuses_settings(settings: dict[str, Any], says: str, checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match=says):
        open_engine(checkpoint("mixtral"), **settings)


def test_kv_bytes_sizes_the_pool(checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    kv = open_engine(checkpoint("mixtral"), num_blocks=None, kv_bytes=1 << 20).engine.kv
    assert kv.num_blocks == (1 << 20) // kv.layout.block_bytes


def test_blocks_moved_as_bytes_serve_another_engine(checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    """Prefill in one engine, copy its blocks, decode in another: the logits are the same bits."""
    first, second = (open_engine(checkpoint("deepseek_v3")) for _ in range(2))
    ids, (table, other) = random_ids(14), shuffled_tables(2)
    first.step(first.slice_of(ids, 0, 13, table))
    for source, target in zip(table[:4], other[:4], strict=True):
        second.engine.kv.write_run(BlockRun(int(target), 1), first.engine.kv.read_run(BlockRun(int(source), 1)))
    moved = second.step(second.slice_of(ids, 13, 14, other))
    assert torch.equal(moved, first.step(first.slice_of(ids, 13, 14, table)))
    assert first.engine.kv.layout.compat_hash() == second.engine.kv.layout.compat_hash()


def test_layouts_of_different_weights_differ(checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    layouts = [open_engine(checkpoint(n)).engine.kv.layout for n in ("qwen3_moe", "qwen3_moe_mixed")]
    assert layouts[0].block_shape == layouts[1].block_shape
    assert layouts[0].compat_hash() != layouts[1].compat_hash()


def test_plan_without_wanted_logits(checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    harness, ids, (table,) = open_engine(checkpoint("qwen3")), random_ids(8), shuffled_tables(1)
    piece = harness.slice_of(ids, 0, 8, table, wanted=False)
    assert harness.engine.step(StepPlan(step_id=0, slices=(piece,))).sampled == (None,)


def test_bfloat16_is_near_float32(checkpoint: Checkpoint, open_engine: OpenEngine) -> None:
    ids, (table,) = random_ids(20), shuffled_tables(1)
    exact, rounded = (
        open_engine(checkpoint("mixtral"), dtype=dtype).logits_at_cuts(ids, (9, 10, 20), table)
        for dtype in ("float32", "bfloat16")
    )
    assert float((rounded - exact).norm() / exact.norm()) < 0.1


def test_real_sampler_by_default(checkpoint: Checkpoint) -> None:
    engine = NativeEngine.from_checkpoint(checkpoint("qwen3"), NativeSettings(device="cpu", num_blocks=64))
    harness = Harness(engine, None)  # type: ignore[arg-type]
    ids, (table,) = random_ids(8), shuffled_tables(1, num_blocks=8)
    output = engine.step(StepPlan(step_id=0, slices=(harness.slice_of(ids, 0, 8, table % 64),)))
    engine.close()
    assert output.sampled[0] is not None


def test_random_weights_are_seeded(checkpoint: Checkpoint) -> None:
    config, settings = read_config(checkpoint("deepseek_v3")), NativeSettings(device="cpu", num_blocks=64)
    made = [NativeEngine.with_random_weights(config, settings, seed=seed) for seed in (0, 0, 1)]
    heads = [engine.decoder.head_VM for engine in made]
    for engine in made:
        engine.close()
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_device_memory_moves_bytes(checkpoint: Checkpoint) -> None:
    """DeviceKvMemory with its tensor on the CPU."""
    layout = read_config(checkpoint("mixtral")).kv_layout(dtype="bfloat16", block_tokens=4, identity="x")
    memory = DeviceKvMemory(layout, 6, torch.bfloat16, torch.device("cpu"))
    payload = bytes(i % 7 for i in range(2 * layout.block_bytes))
    memory.write_run(BlockRun(3, 2), memoryview(payload))
    assert bytes(memory.read_run(BlockRun(3, 2))) == payload
    assert float(memory.pool[[0, 1, 2, 5]].abs().max()) == 0
    assert bytes(memory.read_run(BlockRun(6, 1))) == probe_pattern(layout.block_bytes)
    memory.close()
    assert memory.shm_name is None


@pytest.mark.parametrize(
    ("experts", "arms"),
    [
        ("auto", Arms(experts="grouped", single="looped")),
        ("grouped", Arms(experts="grouped", single="grouped")),
        ("reference", Arms(experts="reference", single="reference")),
    ],
)
def test_arms_on_a_cpu(experts: Any, arms: Arms) -> None:
    placement = Placement(device=torch.device("cpu"), dtype="float32", max_model_len=1)
    assert choose_arms(NativeSettings(experts=experts), placement) == arms


WITHOUT_TRITON = """
import sys

sys.modules["triton"] = None  # as in CPU-only wheels of torch, which bring none
import torch
from proa_kernels.moe_layer import fused_experts
from proa_kernels.norm import rms_norm
from proa_kernels.quant import silu_mul
from proa_workers.engine import native

x = torch.ones(2, 8)
assert torch.equal(rms_norm(x, torch.ones(8), 0.0), x)
assert silu_mul(x).shape == (2, 4)
ids = torch.zeros(40, 1, dtype=torch.int32)
w13, w2 = torch.zeros(2, 8, 8).half(), torch.zeros(2, 8, 4).half()
assert not fused_experts(torch.ones(40, 8).half(), torch.ones(40, 1), ids, w13, w2).any()
print(native.NativeEngine.__name__)
"""


def test_engine_and_references_need_no_triton() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.stdout.strip(), ran.returncode) == ("NativeEngine", 0), ran.stderr


@pytest.mark.parametrize("has_kernels", [False, True])
def test_gate_follows_its_arm_and_a_gpu_without_a_table_takes_torch(
    has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides is the choice at start, not the device of the activations."""
    routed: list[int] = []
    monkeypatch.setattr(native, "has_kernels_for", lambda _: has_kernels)
    monkeypatch.setattr(moe, "route", lambda x, *rest: routed.append(x.shape[0]) or route(x, *rest))
    placement = Placement(device=torch.device("cpu"), dtype="bfloat16", max_model_len=1)
    arms = choose_arms(NativeSettings(), placement)
    assert arms.gate == ("fused" if has_kernels else "torch")
    assert routed == ([1, 1, 40, 40] if has_kernels else [])
    gate = moe.Gate(
        torch.eye(8, 64),
        None,
        MoeConfig(num_experts=8, top_k=2, intermediate_size=64, score="softmax", renormalize=True),
    )
    gate.route(torch.zeros(3, 64), arms)
    assert (3 in routed) == has_kernels


def _other_experts(x: torch.Tensor, *rest: Any) -> Any:
    weights, ids = route(x, *rest)
    return weights, ids.flip(1)


def _no_kernel(*_: Any) -> Any:
    raise RuntimeError("no kernels for GPU sm80")


@pytest.mark.parametrize(("broken", "says"), [(_other_experts, "wrong"), (_no_kernel, r"does not run \(no kernels")])
def test_gate_that_fails_its_check_is_refused(broken: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "route", broken)
    with pytest.raises(SettingsError, match=f"gate fused on cpu .*{says}"):
        moe.check_gate(Arms(gate="fused"), torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda x, *_: x @ x, "does not run .*set experts looped"),
        (lambda x, *_: x, "wrong by .*set experts looped"),
        (lambda x, *_: x * torch.nan, "wrong by nan"),
    ],
)
def test_arm_that_fails_its_check_is_refused(broken: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERTS, "grouped", broken)
    with pytest.raises(SettingsError, match=says):
        check_experts("grouped", torch.float32, torch.device("cpu"))
