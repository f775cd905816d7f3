"""Train the bundled model from scratch on one GPU (minutes) or, for a trial, on CPU.

    python -m tools.tiny_moe.train --model examples/models/tiny-moe [--steps N] [--max-seconds S] [--seed N] [--compile]

The learning rate follows the later of step and time, so that a run cut by --max-seconds ends annealed too.
Source of the gate's bias update and of the MTP loss: DeepSeek-V3 report, sections 2.1.2 and 2.2.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tools.tiny_moe.batches import NO_LOSS, BatchMaker, BatchPlan, Ids, batches
from tools.tiny_moe.checkpoint import save_model
from tools.tiny_moe.corpus import load_corpus
from tools.tiny_moe.errors import TinyMoeError
from tools.tiny_moe.measures import exact_matches, held_out_rows
from tools.tiny_moe.model import TinyMoe
from tools.tiny_moe.shape import Shape
from tools.tiny_moe.tasks import TASKS
from tools.tiny_moe.tokenizer import MAX_LENGTH, load_tokenizer

WARMUP_STEPS = 100
FLAT = 0.4  # share of the run at the peak rate; linear to zero after it
BIAS_STEP = (
    0.004  # falls with the learning rate: a short run must both even out the load early and stand still at its end
)
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    data: Path
    model: Path
    log: Path
    steps: int
    tokens: int
    max_seconds: float
    learning_rate: float
    mtp_weight: float
    seed: int
    processes: int
    is_compiled: bool
    save_every_seconds: float


def rate(step: int, progress: float) -> float:
    """Share of the peak learning rate at `step`, `progress` (0..1) into the run."""
    return max(0.0, min(1.0, (step + 1) / WARMUP_STEPS, (1 - progress) / (1 - FLAT)))


def targets(batch_BS: Tensor, ahead: int) -> Tensor:
    """The token `ahead` places later, `IGNORED` where that is context or beyond the row; (B*S,) int64."""
    out = torch.full_like(batch_BS, IGNORED)
    later = batch_BS[:, ahead:]
    out[:, :-ahead] = torch.where(later >= NO_LOSS, IGNORED, later)
    return out.flatten()


def losses(model: TinyMoe, trunk_TD: Tensor, mtp_TD: Tensor, next_T: Tensor, second_T: Tensor) -> tuple[Tensor, Tensor]:
    head = model.lm_head
    return F.cross_entropy(head(trunk_TD).float(), next_T), F.cross_entropy(head(mtp_TD).float(), second_T)


def optimizer(model: TinyMoe, settings: TrainSettings, device: str) -> torch.optim.AdamW:
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=device == "cuda")


def update_biases(model: TinyMoe, loads: list[Tensor], step: float) -> None:
    """Raise the bias of each underused expert by `step` and lower that of each overused one."""
    for layer, load in zip(model.moe_layers(), loads, strict=True):
        layer.bias.add_(step * torch.sign(load.float().mean() - load.float()))


def imbalance(loads: list[Tensor]) -> list[float]:
    """Busiest expert's tokens over the mean, per MoE layer; 1.0 is even."""
    return [round(float(load.max() / load.float().mean()), 2) for load in loads]


def compile_parts(model: TinyMoe) -> None:
    """Compile what sees only (T, D): its shapes do not change with the row length."""
    for layer in [*model.layers, model.mtp.layer]:
        layer.project, layer.combine = torch.compile(layer.project), torch.compile(layer.combine)
    model.mtp.merge = torch.compile(model.mtp.merge)  # type: ignore[method-assign]


class Trainer:
    """One run: the model, its optimizer, the clock and the log."""

    def __init__(self, settings: TrainSettings, held_out: Ids, device: str) -> None:
        torch.manual_seed(settings.seed)
        torch.set_float32_matmul_precision("high")
        self.settings, self.device = settings, device
        self.model = TinyMoe(Shape()).to(device)
        self.optimizer = optimizer(self.model, settings, device)
        self.loss = torch.compile(losses) if settings.is_compiled else losses
        if settings.is_compiled:
            compile_parts(self.model)
        self.held_out = torch.from_numpy(held_out.astype("int64")).to(device)
        self.log: list[dict[str, object]] = []
        self.started = self.saved = time.monotonic()

    def progress(self, step: int) -> float:
        return max((step + 1) / self.settings.steps, (time.monotonic() - self.started) / self.settings.max_seconds)

    def step(self, batch: Ids, step: int, progress: float) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Losses in nats per token of the main head and the draft head, and tokens per expert of each layer."""
        marked = torch.from_numpy(batch.astype("int64")).to(self.device, non_blocking=True)
        share = rate(step, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * share
        with torch.autocast(self.device, torch.bfloat16):
            out = self.model(marked & (NO_LOSS - 1))
            main, draft = self.loss(self.model, out.trunk, out.mtp, targets(marked, 1), targets(marked, 2))
        torch.autograd.backward(main + self.settings.mtp_weight * draft)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        update_biases(self.model, out.loads, BIAS_STEP * share)
        return main.detach(), draft.detach(), out.loads

    def probe(self) -> dict[str, float]:
        """Exact match per task on held-out questions; its batch has a training batch's size: nothing is recompiled."""
        with torch.autocast(self.device, torch.bfloat16):
            out = self.model(self.held_out & (NO_LOSS - 1))
            choice = self.model.lm_head(out.trunk.detach()).argmax(-1).view_as(self.held_out).cpu()
        found: dict[str, list[bool]] = {task: [] for task in TASKS}
        for row, marked in enumerate(self.held_out.cpu()):
            found[list(TASKS)[row % len(TASKS)]] += [is_right for _, is_right in exact_matches(choice[row], marked)]
        return {task: round(sum(hits) / len(hits), 3) for task, hits in found.items() if hits}

    def report(self, step: int, main: Tensor, draft: Tensor, loads: list[Tensor]) -> None:
        """Log and print a line; raises TinyMoeError when the loss is not finite."""
        seconds = time.monotonic() - self.started
        entry = {
            "step": step,
            "seconds": round(seconds, 1),
            "loss": round(float(main), 4),
            "mtp_loss": round(float(draft), 4),
            "tokens_per_second": round((step + 1) * self.settings.tokens / seconds),
            "busiest_expert_over_mean": imbalance(loads),
            "held_out_exact_match": self.probe(),
        }
        if not math.isfinite(float(main)):
            raise TinyMoeError(f"the loss is not finite at step {step}: lower --learning-rate")
        self.log.append(entry)
        print(json.dumps(entry), flush=True)

    def run(self, source: Iterator[Ids]) -> None:
        """Until `progress` is 1, saved now and then and at the end."""
        for step, batch in enumerate(source):
            progress = self.progress(step)
            main, draft, loads = self.step(batch, step, progress)
            if step % max(1, min(100, self.settings.steps // 20)) == 0 or progress >= 1:
                self.report(step, main, draft, loads)
            if time.monotonic() - self.saved > self.settings.save_every_seconds:
                self.save()
            if progress >= 1:
                break
        self.save()

    def save(self) -> None:
        save_model(self.model, self.settings.model)
        self.settings.log.parent.mkdir(parents=True, exist_ok=True)
        self.settings.log.write_text(json.dumps(self.summary(), indent=1) + "\n")
        self.saved = time.monotonic()

    def summary(self) -> dict[str, object]:
        """What the log says of the run: device, sizes, settings, and the losses so far."""
        settings = self.settings
        return {
            "device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seed": settings.seed,
            "planned_steps": settings.steps,
            "tokens_per_step": settings.tokens,
            "learning_rate": settings.learning_rate,
            "mtp_weight": settings.mtp_weight,
            "log": self.log,
        }


def parse(arguments: list[str] | None = None) -> TrainSettings:
    """The settings, with the values of the committed training as defaults."""
    parser = argparse.ArgumentParser(
        description="Train the bundled model from scratch.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(".data/tiny_moe"), help="corpus folder")
    parser.add_argument(
        "--model", type=Path, default=Path("examples/models/tiny-moe"), help="output folder; must hold tokenizer.json"
    )
    parser.add_argument("--log", type=Path, default=Path("bench/tiny_moe/training.json"), help="losses and loads")
    parser.add_argument("--steps", type=int, default=8600, help="optimizer steps")
    parser.add_argument("--tokens", type=int, default=65536, help="tokens per step, a multiple of 4096")
    parser.add_argument("--max-seconds", type=float, default=36000, help="anneal and stop by then")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--mtp-weight", type=float, default=0.3, help="weight of the multi-token-prediction loss")
    parser.add_argument("--seed", type=int, default=1, help="weights and data")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="data processes")
    parser.add_argument(
        "--compile", dest="is_compiled", action="store_true", help="use torch.compile (needs a C++ compiler)"
    )
    parser.add_argument("--save-every-seconds", type=float, default=60, help="checkpoint interval")
    return TrainSettings(**vars(parser.parse_args(arguments)))


def probe_rows(maker: BatchMaker) -> Ids:
    """One training batch's size of full-length rows of held-out questions, the tasks row by row."""
    rows = maker.plan.tokens // MAX_LENGTH
    return np.concatenate(
        [held_out_rows(maker.corpus, maker.tokenizer, 1, row, [list(TASKS)[row % len(TASKS)]]) for row in range(rows)]
    )


def train(settings: TrainSettings) -> None:
    plan = BatchPlan(tokens=settings.tokens, seed=settings.seed)
    maker = BatchMaker(load_corpus(settings.data), load_tokenizer(settings.model), plan)
    held_out = probe_rows(maker)
    source = batches(maker, settings.steps, settings.processes)
    first = next(source)  # forks before CUDA starts
    trainer = Trainer(settings, held_out, "cuda" if torch.cuda.is_available() else "cpu")
    trainer.run(itertools.chain([first], source))


def main() -> int:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the data processes are forked
    try:
        train(parse())
    except TinyMoeError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
