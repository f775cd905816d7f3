"""Measure the bundled model and write `bench/tiny_moe/evaluation.json`.

    python -m tools.tiny_moe.evaluate [--model examples/models/tiny-moe] [--per-task 200] [--require 0.95]

Exact match is greedy decoding by `transformers` (float32) of held-out questions in the chat template. Exit code 1 when
a task is below `--require`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from tools.tiny_moe.batches import Ids
from tools.tiny_moe.checkpoint import load_model
from tools.tiny_moe.corpus import Corpus, load_corpus
from tools.tiny_moe.dialogue import DIALOGUE
from tools.tiny_moe.errors import TinyMoeError
from tools.tiny_moe.measures import held_out_rows, measure_long_rows, measure_text, text_rows
from tools.tiny_moe.tasks import TASKS, Example, draw
from tools.tiny_moe.tokenizer import MAX_LENGTH, load_tokenizer

BATCH = 64
OPENINGS = (
    "In the beginning",
    "And it came to pass",
    "The LORD said to Moses,",
    "A hacker is",
    "He went up to the city and",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    data: Path
    model: Path
    out: Path
    per_task: int
    require: float
    seed: int
    long_rows: int


class Writer:
    """The model as anybody would load it: `transformers` classes, chat template, batched generation."""

    def __init__(self, folder: Path) -> None:
        # Without this the MTP layer, which the plain causal model does not load, fills the screen with a report.
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model: Any = model.to(self.device).eval()

    def chat(self, question: str) -> str:
        message = [{"role": "user", "content": question}]
        return str(self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))

    def write(self, prompts: list[str], tokens: int, **sampling: object) -> list[str]:
        """Continuations without special tokens, in order of `prompts`."""
        texts: list[str] = []
        for start in range(0, len(prompts), BATCH):
            inputs = self.tokenizer(
                prompts[start : start + BATCH], return_tensors="pt", padding=True, return_token_type_ids=False
            ).to(self.device)
            ids = self.model.generate(**inputs, max_new_tokens=tokens, **(sampling or {"do_sample": False}))
            texts += self.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts


def measure_task(writer: Writer, examples: list[Example]) -> dict[str, object]:
    """Exact match, and up to five mistakes to look at."""
    longest = max(len(writer.tokenizer(e.answer).input_ids) for e in examples) + 4
    written = writer.write([writer.chat(e.prompt) for e in examples], longest)
    wrong = [
        {"prompt": e.prompt, "want": e.answer, "got": text}
        for e, text in zip(examples, written, strict=True)
        if text != e.answer
    ]
    return {"count": len(examples), "exact_match": round(1 - len(wrong) / len(examples), 4), "mistakes": wrong[:5]}


def measure_tasks(writer: Writer, corpus: Corpus, settings: EvaluateSettings) -> dict[str, dict[str, object]]:
    """Share of exact answers for each task, on inputs that training never drew."""
    results = {}
    for task in TASKS:
        rng = random.Random(f"{settings.seed}/{task}")
        results[task] = measure_task(
            writer, [draw(task, rng, corpus.words, held_out=True) for _ in range(settings.per_task)]
        )
        print(f"{task:8} exact match {results[task]['exact_match']:.4f} of {settings.per_task} held-out", flush=True)
    return results


def measure_dialogue(writer: Writer) -> dict[str, object]:
    """The fixed questions in their listed wordings: recall, not generalisation."""
    examples = [
        Example(task="dialogue", prompt=form, answer=answer, key=form) for forms, answer in DIALOGUE for form in forms
    ]
    return measure_task(writer, examples)


def free_text(writer: Writer, seed: int) -> list[dict[str, str]]:
    torch.manual_seed(seed)
    openings = list(OPENINGS)
    texts = writer.write(openings, 80, do_sample=True, temperature=0.7, top_p=0.9)
    return [{"opening": opening, "continuation": text} for opening, text in zip(openings, texts, strict=True)]


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Everything that bench/tiny_moe/evaluation.json holds; raises TinyMoeError when corpus or model is missing."""
    started = time.monotonic()
    corpus, tokenizer, model = (
        load_corpus(settings.data),
        load_tokenizer(settings.model),
        load_model(settings.model).eval(),
    )
    writer = Writer(settings.model)
    model = model.to(writer.device)
    rows, bytes_per_token = text_rows(corpus.held_out, tokenizer, MAX_LENGTH)
    marked: Ids = held_out_rows(corpus, tokenizer, settings.long_rows, settings.seed, list(TASKS))
    return {
        "model_sha256": hashlib.sha256((settings.model / "model.safetensors").read_bytes()).hexdigest(),
        "device": torch.cuda.get_device_name() if writer.device == "cuda" else f"cpu ({platform.machine()})",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "tasks": measure_tasks(writer, corpus, settings),
        "dialogue": measure_dialogue(writer),
        "held_out_text": measure_text(model, rows.to(writer.device), bytes_per_token),
        "long_rows": measure_long_rows(model, torch.from_numpy(marked.astype("int64")).to(writer.device)),
        "free_text": free_text(writer, settings.seed),
        "seconds": round(time.monotonic() - started, 1),
    }


def parse(arguments: list[str] | None = None) -> EvaluateSettings:
    """The settings, with the values of the committed evaluation as defaults."""
    parser = argparse.ArgumentParser(
        description="Measure the bundled model.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(".data/tiny_moe"), help="corpus folder")
    parser.add_argument("--model", type=Path, default=Path("examples/models/tiny-moe"), help="model folder")
    parser.add_argument("--out", type=Path, default=Path("bench/tiny_moe/evaluation.json"), help="result file")
    parser.add_argument("--per-task", type=int, default=200, help="held-out questions per task")
    parser.add_argument("--require", type=float, default=0.95, help="exit 1 when a task is below")
    parser.add_argument("--seed", type=int, default=7, help="which held-out questions")
    parser.add_argument("--long-rows", type=int, default=6, help="rows of 4096 tokens for the by-position measure")
    return EvaluateSettings(**vars(parser.parse_args(arguments)))


def main() -> int:
    """Write the evaluation; exit status 1 when a task is below --require, 2 without corpus or model."""
    settings = parse()
    try:
        result = evaluate(settings)
    except TinyMoeError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "tasks"}, indent=1))
    failed = [task for task, measured in result["tasks"].items() if measured["exact_match"] < settings.require]
    if failed:
        print(f"below {settings.require}: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
