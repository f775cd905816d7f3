"""What the renderer refuses."""

from __future__ import annotations

from proa_operator.errors import UserError


class RenderError(UserError):
    """A spec that no child object can be made from; the text names the field and the fix."""
