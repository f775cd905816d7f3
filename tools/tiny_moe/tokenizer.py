"""Train the byte-level BPE tokenizer and write its files into the model folder.

    python -m tools.tiny_moe.tokenizer [--data .data/tiny_moe] [--model examples/models/tiny-moe]

Digits are always tokens of their own: arithmetic needs aligned places. No token is added on encoding; the chat template
writes the begin token itself, so every path that tokenizes (gateway, transformers, vLLM) gives the same ids.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.tiny_moe.corpus import Corpus, load_corpus
from tools.tiny_moe.dialogue import DIALOGUE
from tools.tiny_moe.errors import TinyMoeError
from tools.tiny_moe.tasks import TASKS, draw

BEGIN, END, PAD, SYSTEM, USER, ASSISTANT = (
    "<|begin|>",
    "<|end|>",
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
SPECIAL = (BEGIN, END, PAD, SYSTEM, USER, ASSISTANT)
BEGIN_ID, END_ID, PAD_ID, ASSISTANT_ID = 0, 1, 2, 5
VOCAB_SIZE = 1024
MAX_LENGTH = 4096
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% elif message['role'] == 'system' %}<|system|>{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% else %}{{ raise_exception('roles are system, user and assistant') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def training_lines(corpus: Corpus) -> Iterator[str]:
    """All training text once, and enough tasks and dialogue that their phrasings become short."""
    yield from corpus.train
    rng = random.Random(0)
    for task in TASKS:
        for _ in range(3000):
            example = draw(task, rng, corpus.words, held_out=False)
            yield f"{example.prompt}\n{example.answer}"
    for forms, answer in DIALOGUE:
        yield from [f"{form}\n{answer}" for form in forms] * 20


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Byte-level BPE of `VOCAB_SIZE` tokens; ids 0-5 are the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_lines(corpus), trainer)
    return tokenizer


def tokenizer_config() -> dict[str, object]:
    """What transformers reads beside tokenizer.json, the chat template included."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH,
        "chat_template": CHAT_TEMPLATE,
    }


def write_tokenizer(corpus: Corpus, folder: Path) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(corpus)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), indent=1) + "\n")
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read `tokenizer.json`; raises `TinyMoeError` when it is missing."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TinyMoeError(f"{path} is missing: run `python -m tools.tiny_moe.tokenizer --model {folder}` first")
    return Tokenizer.from_file(str(path))


def main() -> int:
    """Train and write the tokenizer; exit status 2 without a corpus."""
    parser = argparse.ArgumentParser(description="Train the tokenizer of the bundled model.")
    parser.add_argument(
        "--data", type=Path, default=Path(".data/tiny_moe"), help="corpus folder (default: %(default)s)"
    )
    parser.add_argument(
        "--model", type=Path, default=Path("examples/models/tiny-moe"), help="output folder (default: %(default)s)"
    )
    arguments = parser.parse_args()
    try:
        tokenizer = write_tokenizer(load_corpus(arguments.data), arguments.model)
    except TinyMoeError as error:
        print(f"tokenizer: {error}", file=sys.stderr)
        return 2
    print(f"{tokenizer.get_vocab_size()} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
