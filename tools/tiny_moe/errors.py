"""Errors of the training pipeline; each carries one line that says what to do."""

from __future__ import annotations


class TinyMoeError(Exception):
    """A user's or a machine's fault; the message names the fix."""
