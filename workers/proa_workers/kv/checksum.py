"""CRC32C (Castagnoli) of KV blocks."""

from __future__ import annotations

import google_crc32c
import numpy as np


def block_crcs(blocks: memoryview, block_bytes: int) -> list[int]:
    """CRC32C of each block of `blocks`, whose size is a multiple of `block_bytes`."""
    # NOTE: google_crc32c refuses memoryviews of writable memory but takes an array over the same bytes, without a copy.
    view = np.frombuffer(blocks, np.uint8)
    return [google_crc32c.value(view[start : start + block_bytes]) for start in range(0, len(view), block_bytes)]
