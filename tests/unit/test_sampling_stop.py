"""Stop strings over real byte-level and byte-fallback tokenizers, against a search in the whole text."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from proa_workers.errors import CheckpointError
from proa_workers.sampling.stop import StopStrings, load_tokenizer
from proa_workers.sampling.token_bytes import token_bytes
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PIECES = ["hello", " wor", "ld", "END", "ENDING", "st", "op>", "op> tail", "\n\n", "é", "naïve", "日本", "🛶 proa"]


def byte_level() -> Tokenizer:
    """All 256 single bytes, then PIECES as whole tokens, then one special and one ordinary added token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = ["".join(piece for piece, _ in level.pre_tokenize_str(word)) for word in PIECES]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(alphabet + words)}, []))
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    return tokenizer


def byte_fallback() -> Tokenizer:
    vocab = [f"<0x{b:02X}>" for b in range(256)] + ["\u2581wor", "ld", "END"]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(vocab)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


TOKENIZER = byte_level()
BYTES = token_bytes(TOKENIZER)
SPECIAL = TOKENIZER.token_to_id("<|end|>")
ID_OF = {BYTES(i): i for i in reversed(range(TOKENIZER.get_vocab_size()))}


def ids(*pieces: str | bytes) -> list[int]:
    return [ID_OF[p if isinstance(p, bytes) else p.encode()] for p in pieces]


def feed(tokens: list[int], stops: list[str]) -> tuple[str | None, int, StopStrings]:
    """First match and the index of the token that completed it."""
    watch = StopStrings(TOKENIZER, stops)
    for i, token in enumerate(tokens):
        if (stop := watch.append(token)) is not None:
            return stop, i, watch
    return None, len(tokens), watch


@pytest.mark.parametrize(
    ("tokens", "stops", "stop", "at", "beyond", "whole", "shared"),
    [
        (ids("hello", "END", "hello"), ["END"], "END", 1, 0, 1, 0),
        (ids("hello", "ENDING"), ["END"], "END", 1, 3, 1, 0),
        (ids("<", "st", "op> tail"), ["<stop>"], "<stop>", 2, 5, 3, 0),
        (ids("hello", " wor", "ld"), ["world"], "world", 2, 0, 1, 3),
        (ids("hello", " wor", "ld"), ["lo wor"], "lo wor", 1, 0, 1, 2),
        (ids("\n\n"), ["\n"], "\n", 0, 1, 1, 0),
        (ids(b"\xc3", b"\xa9"), ["é"], "é", 1, 0, 2, 0),
        (ids("日本"), ["本"], "本", 0, 0, 0, 3),
        (ids("🛶 proa"), ["🛶"], "🛶", 0, 5, 1, 0),
        (ids("ENDING"), ["ING", "END"], "END", 0, 3, 1, 0),
        (ids("ENDING"), ["ND", "END"], "END", 0, 3, 1, 0),
        (ids("END"), ["E", "END"], "E", 0, 2, 1, 0),
        (ids("hello", "<think>"), ["<think>"], "<think>", 1, 0, 1, 0),
        ([*ids("E"), SPECIAL, *ids("N", "D")], ["END"], "END", 3, 0, 4, 0),
    ],
)
def test_matches(tokens: list[int], stops: list[str], stop: str, at: int, beyond: int, whole: int, shared: int) -> None:
    found, index, watch = feed(tokens, stops)
    assert (found, index) == (stop, at)
    match = watch.match
    assert match is not None
    assert (match.num_bytes_beyond, match.num_whole_tokens, match.num_bytes_shared) == (beyond, whole, shared)


@pytest.mark.parametrize(
    ("tokens", "stops"),
    [
        (ids("hello", " wor", "ld"), ["worlds", "xhello"]),
        (ids(b"\xc3"), ["é"]),
        ([SPECIAL], ["<|end|>"]),
        (ids("E", "N", "hello", "D"), ["END"]),
        ([9999], ["a"]),
    ],
)
def test_no_match(tokens: list[int], stops: list[str]) -> None:
    assert feed(tokens, stops)[0] is None


def first_in_text(text: bytes, stops: list[str]) -> tuple[str, int] | None:
    """Slow and obvious: grow the text by one byte until it ends with a stop string."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop.encode())]
        if ending:
            return max(ending, key=lambda s: len(s.encode())), end
    return None


@pytest.mark.parametrize("seed", range(150))
def test_random_cuts_find_what_the_whole_text_has(seed: int) -> None:
    rng = random.Random(seed)
    tokens = [
        rng.choice([rng.randrange(TOKENIZER.get_vocab_size()), *ids("E", "N", "D", "st", "op>", "<")])
        for _ in range(40)
    ]
    text = b"".join(BYTES(t) for t in tokens)
    stops = ["END", "<st", "EE", "D<", "é", text[17:22].decode("utf-8", "ignore") or "DN"]
    want = first_in_text(text, stops)
    got, index, watch = feed(tokens, stops)
    assert got == (want[0] if want else None)
    if want is not None and watch.match is not None:
        length = len(b"".join(BYTES(t) for t in tokens[: index + 1]))
        assert length - watch.match.num_bytes_beyond == want[1]
        kept = b"".join(BYTES(t) for t in tokens[: index + 1 - watch.match.num_whole_tokens])
        assert len(kept) - watch.match.num_bytes_shared == want[1] - len(want[0].encode())


def test_planted_forgetful_tail_is_caught() -> None:
    watch = StopStrings(TOKENIZER, ["<stop>"])
    watch._keep = 0
    assert [watch.append(t) for t in ids("<", "st", "op>")] == [None, None, None]
    assert feed(ids("<", "st", "op>"), ["<stop>"])[0] == "<stop>"


def test_memory_does_not_grow_with_the_output() -> None:
    watch = StopStrings(TOKENIZER, ["worlds"])
    for token in ids("hello", " wor", "E") * 2_000:
        watch.append(token)
    assert len(watch._tail) == 5
    assert len(watch._lengths) <= 6


def test_byte_fallback_vocabulary() -> None:
    watch = StopStrings(byte_fallback(), [" world\n", "é"])
    assert [watch.append(t) for t in (256, 257, 10, 0xC3, 0xA9)] == [None, None, " world\n", None, "é"]


def test_token_bytes_join_to_what_the_tokenizer_decodes() -> None:
    rng = random.Random(3)
    tokens = [rng.randrange(TOKENIZER.get_vocab_size()) for _ in range(3_000)]
    assert b"".join(BYTES(t) for t in tokens).decode("utf-8", "replace") == TOKENIZER.decode(tokens)


def test_unknown_decoder_is_refused() -> None:
    tokenizer = byte_level()
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(CheckpointError, match="decoder \\['WordPiece'\\] is unknown"):
        token_bytes(tokenizer)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no tokenizer.json; copy it"), ("{", "not a tokenizer .*; download the file again")]
)
def test_missing_and_corrupt_tokenizers(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_tokenizer_loads_from_its_folder(tmp_path: Path) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).get_vocab_size() == TOKENIZER.get_vocab_size()
