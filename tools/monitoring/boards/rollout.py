"""Groups, revisions, rollouts and drains."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Section, graph

ROLLOUT = Board(
    uid="proa-rollout",
    title="Proa / Rollout and drain",
    text="What the operator wants, what is there, and how far what it began has come.",
    sections=(
        Section(
            title="Groups",
            panels=(
                graph(
                    "Wanted and routable",
                    "routable below desired: groups start, crash, or fail their transfer probe.",
                    "short",
                    f'proa_service_groups{{{MINE},state=~"desired|routable"}}',
                    "{{service}} {{role}} {{state}}",
                ),
                graph(
                    "Draining",
                    "Groups that take no more requests and finish what they have.",
                    "short",
                    f'proa_service_groups{{{MINE},state="draining"}}',
                    "{{service}} {{role}}",
                ),
                graph(
                    "Starting, by phase",
                    "Gated: waits for nodes. Load, Compile, Graphs: the engine starts. Probe: a trial hand-off.",
                    "short",
                    f"sum by (phase) (proa_service_starting_groups{{{MINE}}})",
                    "{{phase}}",
                    is_stacked=True,
                ),
            ),
        ),
        Section(
            title="Revisions",
            panels=(
                graph(
                    "Routable groups of each revision",
                    "During a rollout the new one rises before the old one falls, in pairs.",
                    "short",
                    f'proa_service_revision_groups{{{MINE},state="routable"}}',
                    "{{service}} {{role}} {{revision}}",
                ),
                graph(
                    "No progress for",
                    "At spec.rollout.progressDeadlineSeconds the revision is taken back.",
                    "s",
                    f"proa_service_rollout_stalled_seconds{{{MINE}}}",
                    "{{service}}",
                ),
                graph(
                    "Manifests not yet looked at",
                    "Generations that the status does not speak of yet.",
                    "short",
                    f"proa_service_generation_lag{{{MINE}}}",
                    "{{service}}",
                ),
                graph(
                    "Conditions",
                    "1 is True.",
                    "bool_yes_no",
                    f"proa_service_condition{{{MINE}}}",
                    "{{service}} {{type}}",
                ),
            ),
        ),
    ),
)
