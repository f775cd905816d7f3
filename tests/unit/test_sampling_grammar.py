"""Structured output through llguidance: what is accepted, what is refused and why, and masks that hold."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from proa_workers.core.params import Constraint, SamplingParams
from proa_workers.core.plan import SampleRow
from proa_workers.errors import InvalidRequest, Unsupported
from proa_workers.sampling import grammar as grammar_module
from proa_workers.sampling.grammar import GrammarFactory, GrammarMatcher
from proa_workers.sampling.sampler import Sampler
from proa_workers.sampling.token_bytes import TokenBytes, token_bytes
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCAB = 301  # more than the tokenizer has: padded ids must never be allowed
PIECES = ['{"', '":', "true", "null", " yes", "no", "日本", "12", "34"]
EOS = (265, 266)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"enum": ["S", "XL"]}, "n": {"type": "integer"}},
    "required": ["name", "size", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = ["".join(piece for piece, _ in level.pre_tokenize_str(word)) for word in PIECES]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(sorted(level.alphabet()) + words)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = level, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|eot|>", special=True)])
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def spell(folder: Path) -> TokenBytes:
    return token_bytes(Tokenizer.from_file(str(folder / "tokenizer.json")))


@pytest.fixture(scope="module")
def factory(folder: Path) -> GrammarFactory:
    return GrammarFactory(folder, VOCAB, EOS)


def allowed_by(state: GrammarMatcher) -> list[int]:
    row = np.zeros(-(-VOCAB // 32), dtype=np.int32)
    assert state.fill_mask(row)
    return [int(i) for i in np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))]


def is_accepted(state: GrammarMatcher, spell: TokenBytes, text: str) -> bool:
    """Feed the text byte by byte; True when each byte is allowed and an end may follow."""
    id_of = {spell(i): i for i in range(256)}
    for byte in text.encode():
        token = id_of[bytes([byte])]
        if token not in allowed_by(state):
            return False
        state.accept(token)
    return EOS[0] in allowed_by(state)


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (
            Constraint(kind="json_schema", text=json.dumps(SCHEMA)),
            ['{"name":"a","size":"XL","n":-3}', '{\n  "name": "日本",\n  "size": "S",\n  "n": 0\n}'],
            ["{}", '{"name":"a","size":"M","n":1}', "[1]", '{"name":"123456789","size":"S","n":1}', '{   "name":"a"'],
        ),
        (Constraint(kind="json_schema", text="{}"), ["[1]", '"x"', "null"], ["nul", "{"]),
        (Constraint(kind="json_object"), ["{}", '{"a": {"b": [1, null]}}'], ["[1]", "3", "{" + " " * 9]),
        (Constraint(kind="regex", text=r"[ab]+@x\.org|\d{2}"), ["abba@x.org", "12"], ["12@x.org", "c", "123", "1"]),
        (
            Constraint(kind="choice", text=json.dumps(["a", "ab", 'q"\\\n日'])),
            ["a", "ab", 'q"\\\n日'],
            ["b", "abc", "q"],
        ),
        (Constraint(kind="grammar", text='start: "x" ("," "x")*'), ["x", "x,x"], ["", "x,", "y"]),
        (Constraint(kind="grammar", text='root ::= "x" tail?\ntail ::= "," root'), ["x", "x,x,x"], ["", "x,", "y"]),
    ],
    ids=lambda value: value.kind if isinstance(value, Constraint) else None,
)
def test_texts(
    factory: GrammarFactory, spell: TokenBytes, constraint: Constraint, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not is_accepted(factory.build(constraint), spell, text)] == []
    assert [text for text in bad if is_accepted(factory.build(constraint), spell, text)] == []


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("json_schema", '{"type": ', "json_schema is not JSON: Expecting value: line 1"),
        ("json_schema", "[" * 100_000, "json_schema is not JSON: maximum recursion"),
        ("json_schema", "true", "json_schema must be a JSON object, got true"),
        ("json_schema", "[1]", r"json_schema must be a JSON object, got \[1\]"),
        ("json_schema", '{"type": "strange"}', "json_schema is refused: Invalid type: strange"),
        (
            "json_schema",
            '{"unevaluatedProperties": false}',
            'json_schema is refused: Unimplemented keys: ."unevaluated',
        ),
        ("regex", "[a-z", "regex is refused: .*unclosed character class"),
        ("regex", "(?=a)b", "regex is refused: .*look-around"),
        ("grammar", "start: foo", 'grammar is refused: .*unknown name: "foo"'),
        ("grammar", "root ::= foo", "grammar is refused: Rule 'foo' not found"),
        ("grammar", 'root ::= "a', "grammar is refused: Unexpected end of input"),
        ("choice", "[]", "choice must be a list of at least one non-empty string"),
        ("choice", '["a", ""]', "choice must be a list"),
        ("choice", "a", "choice is not a JSON list: Expecting value"),
        ("regex", "a" * 600_000, "regex has 600000 bytes; at most 524288 are accepted"),
        (
            "json_schema",
            json.dumps({"type": "object", "properties": {f"k{i}": {} for i in range(2500)}}),
            "json_schema is refused: .*items",
        ),
    ],
)
def test_refusals_give_the_reason_in_one_line(factory: GrammarFactory, kind: Any, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        factory.build(Constraint(kind=kind, text=text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


HOSTILE = [
    Constraint(kind="regex", text="(a{1,1000}b?){1,1000}"),
    Constraint(kind="regex", text="[ab]*a[ab]{30}c"),
    Constraint(kind="regex", text=r"(\w{1,200}\s){1,200}"),
    Constraint(kind="grammar", text='start: a+\na: "x" | a a | a a a'),
    Constraint(kind="choice", text=json.dumps([f"value number {i} " * 9 for i in range(3_000)])),
    Constraint(kind="json_schema", text='{"type": "array", "minItems": 100000, "items": {"pattern": "^.{0,5000}$"}}'),
]


@pytest.mark.parametrize("constraint", HOSTILE, ids=lambda c: c.text[:20])
def test_hostile_grammars_stay_bounded(factory: GrammarFactory, constraint: Constraint) -> None:
    rng, started = random.Random(1), time.process_time()
    try:
        state = factory.build(constraint)
    except InvalidRequest:
        return
    for _ in range(40):
        state.accept(rng.choice(allowed_by(state)))
    assert time.process_time() - started < 5


def run_to_end(state: GrammarMatcher, seed: int, spell: TokenBytes, **params: Any) -> tuple[str, SampleRow]:
    """Sample with random logits under the grammar, as scheduler and sampler do together."""
    settings = SamplingParams(max_tokens=400, temperature=1.0, **params)
    row = SampleRow(params=settings, seed=seed, prompt_ids=[1], output_ids=[], eos_token_ids=EOS, grammar=state)
    sampler, noise = Sampler(vocab_size=VOCAB, device="cpu"), torch.Generator().manual_seed(seed)
    while len(row.output_ids) < 400:
        token = sampler.sample(torch.randn(1, VOCAB, generator=noise) * 2, [row])[0].token_id
        if token in EOS:
            break
        row.output_ids.append(token)
        state.accept(token)
    return b"".join(spell(t) for t in row.output_ids).decode("utf-8", "replace"), row


@pytest.mark.parametrize("seed", range(12))
def test_random_logits_yield_valid_json(factory: GrammarFactory, spell: TokenBytes, seed: int) -> None:
    text, row = run_to_end(factory.build(Constraint(kind="json_schema", text=json.dumps(SCHEMA))), seed, spell)
    assert max(row.output_ids) < 265
    value = json.loads(text)
    assert set(value) == {"name", "size", "n"}
    assert value["size"] in ("S", "XL")


def test_planted_missing_mask_is_caught(
    factory: GrammarFactory, spell: TokenBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GrammarMatcher, "fill_mask", lambda self, row: False)
    state = factory.build(Constraint(kind="choice", text='["no"]'))
    run_to_end(state, 3, spell)
    assert state.failure is not None


def test_min_tokens_does_not_empty_a_finished_grammar(factory: GrammarFactory, spell: TokenBytes) -> None:
    state = factory.build(Constraint(kind="choice", text='["no"]'))
    assert run_to_end(state, 3, spell, min_tokens=100)[0] == "no"
    assert state.is_finished()
    assert allowed_by(state) == list(EOS)
    state.accept(EOS[1])
    assert (allowed_by(state), state.failure) == (list(EOS), None)


def test_sequences_of_one_constraint_do_not_share_state(factory: GrammarFactory, spell: TokenBytes) -> None:
    first, second = (factory.build(Constraint(kind="regex", text="ab")) for _ in range(2))
    assert is_accepted(first, spell, "ab")
    assert is_accepted(second, spell, "ab")
    assert is_accepted(factory.build(Constraint(kind="regex", text="ab")), spell, "ab")


def test_a_foreign_token_ends_the_output_with_a_reason(factory: GrammarFactory) -> None:
    state = factory.build(Constraint(kind="regex", text="ab"))
    state.accept(5)
    assert state.failure is not None
    assert "satisfy the grammar" in state.failure
    assert "\n" not in state.failure
    assert state.is_finished()
    assert allowed_by(state) == list(EOS)


def test_cache_is_bounded(factory: GrammarFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "MAX_CACHED", 3)
    factory._cache.clear()
    for text in "abcadea":
        factory.build(Constraint(kind="regex", text=text))
    assert [c.text for c in factory._cache] == ["d", "e", "a"]


def test_build_and_use_in_different_threads(factory: GrammarFactory, spell: TokenBytes) -> None:
    results: list[bool] = []

    def work(i: int) -> None:
        state = factory.build(Constraint(kind="regex", text=f"x{i % 3}"))
        results.append(is_accepted(state, spell, f"x{i % 3}"))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [True] * 12


@pytest.mark.parametrize(("vocab", "eos"), [(100, EOS), (VOCAB, ())])
def test_a_tokenizer_that_does_not_fit_is_unsupported(folder: Path, vocab: int, eos: tuple[int, ...]) -> None:
    with pytest.raises(Unsupported, match="structured output does not work with this model's tokenizer"):
        GrammarFactory(folder, vocab, eos).build(Constraint(kind="json_object"))
