"""Structured output: constraints compiled by llguidance into token masks.

llguidance computes lazily: compiling is cheap, and every later step is bounded by a fuel limit rather than by a clock,
so that no schema can stall the engine. A grammar that exceeds the limits at its start is refused at admission; one that
does so in mid-output ends that output (`failure`), never the step of the others.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import llguidance
import numpy as np
import numpy.typing as npt
from llguidance.gbnf_to_lark import any_to_lark

from proa_workers.core.params import Constraint, ConstraintKind
from proa_workers.errors import InvalidRequest, Unsupported
from proa_workers.sampling.token_bytes import first_line

MAX_TEXT_BYTES = 512 * 1024
MAX_CACHED = 64
PROBE_TOKENS = 4
REASON_LENGTH = 300
# A space, or a line break with its indentation: JSON as people write it, but no endless white space.
JSON_SPACE = r"(\n[ \t]{0,40}| )"


class GrammarMatcher:
    """GrammarState of one sequence. `failure` says why the automaton gave up; from then on only an end may follow."""

    def __init__(self, matcher: llguidance.LLMatcher, eos_token_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._eos_token_ids = eos_token_ids
        self.failure: str | None = None

    def fill_mask(self, row: npt.NDArray[np.int32]) -> bool:
        """Sets the bit of every token that may come next, int32 [V / 32]; after a failure the end of text alone may."""
        assert row.flags.c_contiguous, "the mask row must be contiguous"
        if self.failure is None:
            self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            self._note_error()
        if self.failure is not None:
            row.fill(0)
            for token in self._eos_token_ids:
                row.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)
        return True

    def accept(self, token_id: int) -> None:
        if not self.is_finished():
            self._matcher.consume_token(token_id)
            self._note_error()

    def is_finished(self) -> bool:
        return self.failure is not None or self._matcher.is_stopped()

    def _note_error(self) -> None:
        if self._matcher.is_error():
            self.failure = _reason(self._matcher.get_error())


class GrammarFactory:
    """Compiles constraints for one tokenizer; safe to call from several threads.

    Accepted: a JSON schema (llguidance's subset; unknown keywords are refused), any JSON object, a regex that must
    match the whole output (Rust's syntax, no look-around), a JSON list of choices, and grammars in llguidance's Lark
    dialect (rule `start`) or in GBNF (rule `root`).
    """

    def __init__(self, model_dir: Path, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        self._path = model_dir / "tokenizer.json"
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._limits = llguidance.LLParserLimits(max_lexer_states=20_000, verbose_errors=False)
        self._lock = threading.Lock()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._cache: OrderedDict[Constraint, llguidance.LLMatcher] = OrderedDict()

    def build(self, constraint: Constraint) -> GrammarMatcher:
        """Fresh automaton. InvalidRequest with llguidance's reason; Unsupported when the tokenizer cannot be used."""
        with self._lock:
            tokenizer = self._tokenizer = self._tokenizer or self._load_tokenizer()
            compiled = self._cache.get(constraint)
        if compiled is None:
            compiled = self._compile(constraint, tokenizer)
        with self._lock:
            self._cache[constraint] = compiled
            self._cache.move_to_end(constraint)
            if len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
            return GrammarMatcher(compiled.deep_copy(), self._eos_token_ids)

    def _load_tokenizer(self) -> llguidance.LLTokenizer:
        """On first use: most workers never see a constraint."""
        try:
            return llguidance.LLTokenizer(
                str(self._path), n_vocab=self._vocab_size, eos_token=list(self._eos_token_ids)
            )
        except ValueError as error:
            reason = first_line(error)
            raise Unsupported(f"structured output does not work with this model's tokenizer: {reason}") from None

    def _compile(self, constraint: Constraint, tokenizer: llguidance.LLTokenizer) -> llguidance.LLMatcher:
        num_bytes = len(constraint.text.encode())
        if num_bytes > MAX_TEXT_BYTES:
            raise InvalidRequest(f"{constraint.kind} has {num_bytes} bytes; at most {MAX_TEXT_BYTES} are accepted")
        grammar = _SOURCES[constraint.kind](constraint.text)
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=self._limits)
        reason = matcher.get_error() or self._probe(matcher.deep_copy())
        if reason:
            raise InvalidRequest(f"{constraint.kind} is refused: {_reason(reason)}")
        return matcher

    def _probe(self, matcher: llguidance.LLMatcher) -> str:
        """Error of the first few tokens, where a grammar that is too wide shows."""
        row = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        for _ in range(PROBE_TOKENS):
            matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
            if matcher.is_stopped() or not len(allowed):
                break
            matcher.consume_token(int(allowed[-1]))
        return matcher.get_error()


def _reason(text: str) -> str:
    """One line of a message of llguidance; a regex error keeps its cause, which stands on a later line."""
    head = first_line(text)
    cause = next((line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")), "")
    return (f"{head.removesuffix(':')}: {cause}" if cause else head)[:REASON_LENGTH]


def _from_schema(text: str) -> str:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"json_schema is not JSON: {first_line(error)}") from None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"json_schema must be a JSON object, got {text[:40]}")
    return llguidance.LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_pattern": JSON_SPACE})


def _from_choices(text: str) -> str:
    """One terminal with all choices: alternatives of a rule would be limited to some 2000."""
    try:
        choices = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"choice is not a JSON list: {first_line(error)}") from None
    if not (isinstance(choices, list) and choices and all(isinstance(c, str) and c for c in choices)):
        raise InvalidRequest("choice must be a list of at least one non-empty string")
    alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return llguidance.LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {alternatives}")


def _from_grammar(text: str) -> str:
    try:
        lark = any_to_lark(text)
    except Exception as error:  # the converter raises bare Exception for some mistakes
        raise InvalidRequest(f"grammar is refused: {first_line(error)}") from None
    return llguidance.LLMatcher.grammar_from_lark(lark)


_SOURCES: dict[ConstraintKind, Callable[[str], str]] = {
    "json_schema": _from_schema,
    "json_object": lambda _: _from_schema('{"type": "object"}'),
    "regex": llguidance.LLMatcher.grammar_from_regex,
    "grammar": _from_grammar,
    "choice": _from_choices,
}
