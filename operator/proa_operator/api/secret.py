"""A reference to one key of a Secret; the operator passes it on and never reads the Secret."""

from __future__ import annotations

from proa_operator.api.noun import Noun


class SecretKeyRef(Noun):
    """One key of a Secret in the service's namespace; both fields empty means none."""

    name: str = ""
    """Name of the Secret."""
    key: str = ""
    """Key inside the Secret."""
