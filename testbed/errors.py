"""What the test bed raises; every message says the fix in one line."""

from __future__ import annotations


class BedError(RuntimeError):
    """The test bed cannot start, or a command against it failed."""


class BedUnavailable(BedError):
    """This machine cannot run a tier (system, rights or packages); tests of that tier are left out."""
