"""Errors of `proa bench`; each message is one line that names the cause and the fix."""

from __future__ import annotations

from proa_operator.errors import UserError


class BenchError(UserError):
    """The benchmark cannot run as asked; the command ends with exit code 2."""


class SettingError(BenchError):
    """An option, or a combination of options, that makes no sense."""


class TraceError(BenchError):
    """A trace file that is missing or malformed."""


class EndpointError(BenchError):
    """The endpoint does not answer, or not as an OpenAI endpoint does."""
