"""Tokenizer files, and the bytes that one token id spells.

Text is only defined for whole outputs (a character may be split over tokens), bytes are defined per token. Two
families are known: byte-level BPE (GPT-2's alphabet of printable stand-ins; Qwen, DeepSeek, Llama 3, Kimi) and
SentencePiece-like vocabularies with byte fallback (`<0x0A>`, U+2581 for a space; Mixtral).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from proa_workers.errors import CheckpointError

TokenBytes = Callable[[int], bytes]
SPACE_MARK = "\u2581"


def load_tokenizer(model_dir: str | Path) -> Tokenizer:
    """Tokenizer of a checkpoint folder; CheckpointError when tokenizer.json is missing or cannot be read."""
    path = Path(model_dir) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{model_dir}: no tokenizer.json; copy it from the original model")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust binding raises bare Exception and nothing narrower
        raise CheckpointError(f"{path}: not a tokenizer ({first_line(error)}); download the file again") from None


def first_line(error: object) -> str:
    """First line of a message that other people's code wrote."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@lru_cache(maxsize=8)
def token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    """Function from token id to the bytes it adds to the output; special tokens and unknown ids add none.

    Raises CheckpointError for a decoder of neither family.
    """
    added = tokenizer.get_added_tokens_decoder()
    spelled = {i: b"" if token.special else token.content.encode() for i, token in added.items()}
    piece_bytes = _piece_decoder(json.loads(tokenizer.to_str())["decoder"])

    def decode(token_id: int) -> bytes:
        found = spelled.get(token_id)
        if found is None:
            piece = tokenizer.id_to_token(token_id)
            found = spelled[token_id] = piece_bytes(piece) if piece is not None else b""
        return found

    return decode


def _piece_decoder(decoder: dict[str, Any] | None) -> Callable[[str], bytes]:
    kinds = {d["type"] for d in ((decoder or {}).get("decoders") or [decoder or {"type": "none"}])}
    if "ByteLevel" in kinds:
        alphabet = _byte_alphabet()
        return lambda piece: bytes(alphabet[c] for c in piece)
    if kinds & {"ByteFallback", "Metaspace"}:
        return _sentencepiece_bytes
    raise CheckpointError(
        f"tokenizer.json: decoder {sorted(kinds)} is unknown; byte-level or byte-fallback BPE is served"
    )


def _sentencepiece_bytes(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE_MARK, " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's code (`encoder.py`, bytes_to_unicode): printable Latin-1 stands for itself, other bytes for U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}
