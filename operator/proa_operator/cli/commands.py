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
    "status": Command(
        module="proa_operator.cli.status",
        panel=CLUSTER,
        help="Show services: groups of each pool by revision, phase, conditions with their reasons.",
    ),
    "plan": Command(
        module="proa_operator.cli.plan",
        panel=CLUSTER,
        help="Show what the operator would do now for a service, or for a manifest, in order. Changes nothing.",
    ),
    "diff": Command(
        module="proa_operator.cli.diff",
        panel=CLUSTER,
        help="Show how the objects of a manifest differ from those in the cluster. Changes nothing.",
    ),
    "rollout": Command(
        module="proa_operator.cli.rollout",
        panel=CLUSTER,
        help="Show the revisions of a service and how far its rollout is, or roll it out anew.",
    ),
    "undo": Command(
        module="proa_operator.cli.undo",
        panel=CLUSTER,
        help="Go back to an earlier revision of a service.",
    ),
    "drain": Command(
        module="proa_operator.cli.drain",
        panel=CLUSTER,
        help="Take one group out of service without losing a request; the operator replaces it.",
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
    "profile": Command(
        module="proa_operator.cli.profile",
        panel=HERE,
        help="Measure one worker of a manifest on this machine; write a PerformanceProfile with the error of its fit.",
    ),
    "simulate": Command(
        module="proa_operator.simulate.cli",
        panel=BOTH,
        help="Try the autoscaler and its rivals on simulated traffic: SLO attainment, GPU hours, reversals.",
    ),
    "replay": Command(
        module="proa_operator.cli.replay",
        panel=BOTH,
        help="Decide again from recorded decisions, and show whether the results are the same, bit for bit.",
    ),
    "size": Command(
        module="proa_operator.cli.size",
        panel=BOTH,
        help="Write a manifest for a model, a GPU and two objectives, with the margins that it leaves.",
    ),
    "version": Command(
        module="proa_operator.cli.version",
        panel=BOTH,
        help="Print the versions of proa and of the parts that serve.",
    ),
}
