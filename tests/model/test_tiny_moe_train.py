"""The trainer's parts, and the one-line answer to each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools.tiny_moe import corpus, evaluate, tokenizer, train
from tools.tiny_moe.batches import NO_LOSS
from tools.tiny_moe.errors import TinyMoeError
from tools.tiny_moe.measures import answers, exact_matches
from tools.tiny_moe.model import MoeMlp, TinyMoe
from tools.tiny_moe.packages import SOURCES
from tools.tiny_moe.shape import Shape

SMALL = Shape(vocab_size=64, hidden_size=32, num_layers=2, q_lora_rank=32, kv_lora_rank=64, intermediate_size=64)


@pytest.mark.parametrize(
    ("step", "progress", "share"),
    [
        (0, 0.0, 0.01),
        (49, 0.1, 0.5),
        (99, 0.2, 1.0),
        (4000, 0.4, 1.0),
        (6000, 0.7, 0.5),
        (8600, 1.0, 0.0),
        (9, 1.2, 0.0),
    ],
)
def test_learning_rate_rises_stays_and_falls(step: int, progress: float, share: float) -> None:
    assert train.rate(step, progress) == pytest.approx(share)


def test_targets_are_later_tokens_and_skip_context() -> None:
    row = torch.tensor([[5 | NO_LOSS, 6 | NO_LOSS, 7, 8]])
    ignored = train.IGNORED
    assert train.targets(row, 1).tolist() == [ignored, 7, 8, ignored]
    assert train.targets(row, 2).tolist() == [7, 8, ignored, ignored]


def test_the_gates_weights_follow_the_groups_and_sum_to_the_factor() -> None:
    torch.manual_seed(0)
    gate = MoeMlp(Shape())
    weights = gate.route(torch.randn(50, 192))
    chosen = weights > 0
    assert (chosen.sum(-1) == 4).all()
    assert (chosen.view(50, 4, 4).any(-1).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.full((50,), 2.5))


def test_the_bias_moves_load_but_not_weights() -> None:
    torch.manual_seed(0)
    gate, x = MoeMlp(Shape()), torch.randn(50, 192)
    before = gate.route(x)
    gate.bias[3] += 10
    after = gate.route(x)
    assert (after[:, 3] > 0).all()
    both = (before > 0).all(-1) & (after > 0).all(-1)
    torch.testing.assert_close(before[both], after[both])


def test_bias_update_evens_out_the_load() -> None:
    torch.manual_seed(0)
    model, ids = TinyMoe(SMALL), torch.randint(0, 64, (4, 64))
    first = max(train.imbalance(model(ids).loads))
    for _ in range(200):
        train.update_biases(model, model(ids).loads, 0.01)
    assert max(train.imbalance(model(ids).loads)) < min(first, 1.5)


def test_a_few_steps_learn_a_batch_and_repeat_exactly() -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        model, ids = TinyMoe(SMALL), torch.randint(0, 64, (2, 32))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(30):
            out = model(ids)
            main, draft = train.losses(model, out.trunk, out.mtp, train.targets(ids, 1), train.targets(ids, 2))
            optimizer.zero_grad()
            torch.autograd.backward(main + draft)
            optimizer.step()
        runs.append((main.item(), draft.item()))
    assert runs[0] == runs[1]
    assert max(runs[0]) < 2.0  # 4.2 is chance


def test_exact_match_sees_one_wrong_token() -> None:
    marked = torch.tensor([9 | NO_LOSS, 9 | NO_LOSS, 7, 8, 9 | NO_LOSS, 5, 9 | NO_LOSS])
    assert answers(marked) == [(2, 4), (5, 6)]
    choice = torch.tensor([0, 7, 8, 0, 5, 0, 0])
    assert exact_matches(choice, marked) == [(2, True), (5, True)]
    choice[2] = 3
    assert exact_matches(choice, marked) == [(2, False), (5, True)]


@pytest.mark.parametrize("module", [tokenizer, train, evaluate])
def test_a_missing_corpus_is_one_line_and_exit_code_2(
    module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tool", "--data", str(tmp_path)])
    assert module.main() == 2  # type: ignore[attr-defined]
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "python -m tools.tiny_moe.corpus" in message


def test_a_changed_licence_statement_stops_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCES[0]
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs" / f"{source.package}_1_all.deb").write_bytes(b"")
    notice = tmp_path / "unpacked" / source.package / "usr/share/doc" / source.package / "copyright"
    notice.parent.mkdir(parents=True)
    notice.write_text("All rights reserved.")
    monkeypatch.setattr("subprocess.run", lambda *args, **kwargs: None)
    with pytest.raises(TinyMoeError, match="no longer says"):
        corpus.fetch(source, tmp_path)
