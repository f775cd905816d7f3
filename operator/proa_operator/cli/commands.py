"""The table of commands, so that `proa --help` imports none of them."""

from __future__ import annotations

from dataclasses import dataclass

HERE = "On this machine"
CLUSTER = "In a cluster"
BOTH = "Anywhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command."""

    module: str
    """Has an attribute of the command's name."""
    panel: str
    """Heading in the help."""
    help: str
    """First paragraph of the command's own help."""


COMMANDS: dict[str, Command] = {
    "up": Command(
        module="proa_operator.cli.up",
        panel=HERE,
        help="Serve a manifest on this machine, without Kubernetes: one gateway and its workers as processes.",
    ),
    "demo": Command(
        module="proa_operator.cli.demo",
        panel=HERE,
        help="Serve the bundled model, ask it one question, print the answer as it streams, with TTFT and tokens/s.",
    ),
    "render": Command(
        module="proa_operator.cli.render",
        panel=BOTH,
        help="Print the objects that the operator would create for a manifest. Needs no cluster.",
    ),
    "validate": Command(
        module="proa_operator.cli.validate",
        panel=BOTH,
        help="Check a manifest as the API server would; each problem is one line with its fix (exit code 2).",
    ),
    "doctor": Command(
        module="proa_operator.cli.doctor",
        panel=BOTH,
        help="Check the cluster and this machine for what Proa needs; each finding with its fix.",
    ),
    "bench": Command(
        module="proa_operator.bench.cli",
        panel=BOTH,
        help="Drive load at an OpenAI endpoint; report TTFT, ITL, TPOT, E2E, tokens/s and goodput.",
    ),
    "version": Command(
        module="proa_operator.cli.version",
        panel=BOTH,
        help="Print the versions of proa and of the parts that serve.",
    ),
}
