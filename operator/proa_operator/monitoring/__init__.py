"""Recording rules and alerts for Prometheus. The chart has a copy, made by `make gen`."""

from __future__ import annotations

from pathlib import Path

RULES = Path(__file__).parent / "rules"
"""Folder of rule files."""
