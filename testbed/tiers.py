"""Which tiers run: `PROA_TEST_TIERS` lists some of `a`, `b` and `soak`, or is `none`.

Without it, all that this machine can, but for `soak`: that is no tier of its own, it lets the long tests of the others
run, the random rollouts and those with many nodes.
"""

from __future__ import annotations

import os
import platform

from testbed import debian
from testbed.errors import BedError

DEFAULT = ("a", "b")
SOAK = "soak"
CHOICES = (*DEFAULT, SOAK)


def chosen_tiers() -> frozenset[str]:
    """What the environment asks for; raises BedError for a word that is no tier."""
    words = os.environ.get("PROA_TEST_TIERS", ",".join(DEFAULT)).replace(" ", "").split(",")
    if words == ["none"] or words == [""]:
        return frozenset()
    if unknown := [word for word in words if word not in CHOICES]:
        raise BedError(
            f"PROA_TEST_TIERS={','.join(words)}: {unknown[0]!r} is no tier; use some of {', '.join(CHOICES)}, or none"
        )
    return frozenset(words)


def why_not(tier: str) -> str | None:
    """One line that says why this machine cannot run `tier`, or None when it can."""
    if platform.system() != "Linux":
        return "it needs Linux"
    if (absent := debian.missing_tools()) and not debian.can_install():
        return f"it needs the Debian packages {' and '.join(absent)}"
    return _why_no_node() if tier == "b" else None


def _why_no_node() -> str | None:
    if os.geteuid() != 0:
        return "it needs root"
    return None if debian.can_install() else "it needs apt-get, for containerd and its network plugins"


def left_out(tier: str) -> str | None:
    """Why tests of `tier` do not run here: not asked for, or not possible; None when they run."""
    if tier not in chosen_tiers():
        return "PROA_TEST_TIERS leaves it out"
    return why_not(tier)
