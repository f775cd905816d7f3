"""What `proa simulate` refuses, as one line with the fix."""

from __future__ import annotations

from proa_operator.errors import ProaError, UserError


class SimulateError(UserError):
    """An option, a profile or a trace that cannot be simulated."""


class BoundError(ProaError):
    """The suite ran and a bound failed."""
