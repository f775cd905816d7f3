"""Groups, revisions, rollouts and drains."""

from __future__ import annotations

from tools.monitoring.panel import MINE, Board, Graph, Query, Section

ROLLOUT = Board(
    uid="proa-rollout",
    title="Proa / Rollout and drain",
    text="What the operator wants, what is there, and how far what it began has come.",
    sections=(
        Section(
            title="Groups",
            panels=(
                Graph(
                    title="Wanted and routable",
                    text="routable below desired: groups start, crash, or fail their transfer probe.",
                    unit="short",
                    queries=(
                        Query(
                            f'proa_service_groups{{{MINE},state=~"desired|routable"}}', "{{service}} {{role}} {{state}}"
                        ),
                    ),
                ),
                Graph(
                    title="Draining",
                    text="Groups that take no more requests and finish what they have.",
                    unit="short",
                    queries=(Query(f'proa_service_groups{{{MINE},state="draining"}}', "{{service}} {{role}}"),),
                ),
                Graph(
                    title="Starting, by phase",
                    text="Gated: waits for nodes. Load, Compile, Graphs: the engine starts. Probe: a trial hand-off.",
                    unit="short",
                    is_stacked=True,
                    queries=(Query(f"sum by (phase) (proa_service_starting_groups{{{MINE}}})", "{{phase}}"),),
                ),
            ),
        ),
        Section(
            title="Revisions",
            panels=(
                Graph(
                    title="Routable groups of each revision",
                    text="During a rollout the new one rises before the old one falls, in pairs.",
                    unit="short",
                    queries=(
                        Query(
                            f'proa_service_revision_groups{{{MINE},state="routable"}}',
                            "{{service}} {{role}} {{revision}}",
                        ),
                    ),
                ),
                Graph(
                    title="No progress for",
                    text="At spec.rollout.progressDeadlineSeconds the revision is taken back.",
                    unit="s",
                    queries=(Query(f"proa_service_rollout_stalled_seconds{{{MINE}}}", "{{service}}"),),
                ),
                Graph(
                    title="Manifests not yet looked at",
                    text="Generations that the status does not speak of yet.",
                    unit="short",
                    queries=(Query(f"proa_service_generation_lag{{{MINE}}}", "{{service}}"),),
                ),
                Graph(
                    title="Conditions",
                    text="1 is True.",
                    unit="bool_yes_no",
                    queries=(Query(f"proa_service_condition{{{MINE}}}", "{{service}} {{type}}"),),
                ),
            ),
        ),
    ),
)
