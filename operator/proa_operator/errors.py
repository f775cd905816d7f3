"""Errors of the control plane.

ProaError
  UserError       the caller can fix it: one line with the fix, exit code 2
    ManifestError   a manifest that cannot be read or breaks a rule
    PlanError       a manifest or an option that local mode cannot serve
    StartError      a process that refused its settings
  ServeError      something broke while serving: one line, exit code 1
"""

from __future__ import annotations


class ProaError(Exception):
    """Base of all errors of the control plane; the text is one line for the user."""

    exit_code = 1


class UserError(ProaError):
    """The caller can fix it."""

    exit_code = 2


class ManifestError(UserError):
    """A manifest cannot be read or breaks a rule."""


class PlanError(UserError):
    """Local mode cannot serve this manifest with these options."""


class StartError(UserError):
    """A process refused its settings."""


class ServeError(ProaError):
    """Something broke while serving."""
