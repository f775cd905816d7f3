"""Kernels run in Triton's interpreter on CPU tensors; the switch must be set before Triton is first imported."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
