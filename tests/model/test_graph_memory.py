"""What graphs of decode steps hold: one place for logits, and nothing where the memory does not suffice for one.

The class of production with a capture that a CPU can run: a replay computes the fixed-size batch anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from proa_workers.core.plan import SeqSlice
from proa_workers.model.graphs import MAX_GRAPH_ROWS, Captured, DecodeGraphs, bucket

from tests.model.checkpoints import VOCAB, Harness, random_ids, shuffled_tables

LENGTHS = (9, 30, 2)


@dataclass(frozen=True, slots=True)
class Replay:
    replay: Callable[[], None]


@dataclass(slots=True)
class Memory:
    """Captures of `full` many rows find no memory; `tried` has the sizes of all captures."""

    full: tuple[int, ...] = ()
    tried: list[tuple[int, int]] = field(default_factory=list)

    def capture(self, graphs: DecodeGraphs, inputs: torch.Tensor, sizes: tuple[int, int]) -> Captured:
        self.tried.append(sizes)
        if sizes[0] in self.full:
            raise torch.OutOfMemoryError("planted")
        graph = Replay(lambda: graphs._forward(inputs, sizes))
        return Captured(graph=graph, inputs=inputs)  # type: ignore[arg-type]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory()
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(DecodeGraphs, "_capture", lambda graphs, *a: memory.capture(graphs, *a))
    return memory


@pytest.fixture
def harness(memory: Memory, checkpoint: Callable[[str], Path], open_engine: Callable[..., Harness]) -> Harness:
    """An engine with graphs, and the keys of three sequences but for their last tokens."""
    harness = open_engine(checkpoint("qwen3_moe"))
    for piece in pieces(harness, range(3), is_last=False):
        harness.step(piece)
    engine = harness.engine
    engine.graphs = DecodeGraphs(engine.decoder, engine._paged, engine.arms)
    return harness


def pieces(harness: Harness, members: Iterable[int], *, is_last: bool = True) -> list[SeqSlice]:
    tables = shuffled_tables(3)
    cuts = {i: (LENGTHS[i] - 1, LENGTHS[i]) if is_last else (0, LENGTHS[i] - 1) for i in members}
    return [harness.slice_of(random_ids(LENGTHS[i], i), *cut, tables[i]) for i, cut in cuts.items()]


def eager(harness: Harness, members: Iterable[int]) -> torch.Tensor:
    graphs, harness.engine.graphs = harness.engine.graphs, None
    logits_RV = harness.step(*pieces(harness, members))
    harness.engine.graphs = graphs
    return logits_RV


def test_graphs_of_all_sizes_leave_their_logits_in_one_place(harness: Harness, memory: Memory) -> None:
    graphs, places = harness.engine.graphs, set()
    assert graphs is not None
    for members in ((0, 1, 2), (2, 0), (1,), (0, 1, 2)):
        expected_RV = eager(harness, members)
        with torch.inference_mode():
            logits_RV = graphs.logits(pieces(harness, members))
        assert logits_RV is not None
        torch.testing.assert_close(logits_RV, expected_RV, atol=1e-5, rtol=1e-5)
        places.add((logits_RV.untyped_storage().data_ptr(), logits_RV.untyped_storage().nbytes()))
    assert memory.tried == [(3, 8), (2, 3), (1, 8)]
    assert [size for _, size in places] == [bucket(MAX_GRAPH_ROWS) * VOCAB * 4]


def test_steps_that_no_graph_fits_run_eagerly(
    harness: Harness, memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried once a size and said once; other sizes have graphs."""
    memory.full = (2, 3)
    for members in ((0, 1, 2), (2, 0), (0, 1, 2), (2, 0), (1,), (1,)):
        torch.testing.assert_close(
            harness.step(*pieces(harness, members)), eager(harness, members), atol=1e-5, rtol=1e-5
        )
    assert memory.tried == [(3, 8), (2, 3), (1, 8)]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["no memory for a CUDA graph"]
