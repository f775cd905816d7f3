"""Short digests of plain values."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest8(value: Any) -> str:
    """8 hex digits of SHA-256 over the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
