"""The model's tokenizer files as one zip in pieces, for gateways that do not share a file system with the worker."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from smg_grpc_proto.generated import common_pb2

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)
CHUNK_BYTES = 1 << 20
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the same files give the same bytes, hence the same fingerprint


def tokenizer_chunks(model: Path) -> Iterator[common_pb2.GetTokenizerChunk]:
    """Zip of the tokenizer files that exist; the last piece carries the SHA-256 of the whole."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (model / name for name in TOKENIZER_FILES):
            if path.is_file():
                archive.writestr(zipfile.ZipInfo(path.name, FIXED_TIME), path.read_bytes(), zipfile.ZIP_DEFLATED)
    blob = content.getvalue()
    last = max(len(blob) - 1, 0) // CHUNK_BYTES
    for i in range(last + 1):
        sha256 = hashlib.sha256(blob).hexdigest() if i == last else ""
        yield common_pb2.GetTokenizerChunk(data=blob[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES], sha256=sha256)
