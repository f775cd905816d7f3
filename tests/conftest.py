"""Before any test module: Triton reads its switch when a kernel's module is first imported, by whichever test."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
