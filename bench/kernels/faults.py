"""What the checks before a benchmark's timings found."""

from __future__ import annotations

from collections.abc import Mapping


def tell_faults(verdicts: Mapping[str, str]) -> dict[str, str]:
    """Print how many checks there were and which failed; return these."""
    faults = {name: verdict for name, verdict in verdicts.items() if verdict}
    print(f"{len(verdicts)} checks, wrong: {faults or 'none'}", flush=True)
    return faults
