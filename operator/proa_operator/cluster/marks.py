"""Annotations that only the shell writes and reads."""

from __future__ import annotations

APPLIED = "proa.dev/applied"  # on every child: digest of what was applied last
MEMO = "proa.dev/memo"  # on a group's StatefulSet: GroupMemo as JSON
DRAIN = "proa.dev/drain"  # on a group's StatefulSet, by a person: any value asks for a drain
DECLARED = "proa.dev/declared-replicas"  # on a WorkerPool: the service's own number when replicas were last written
AVAILABLE = "proa.dev/available-at"  # on a ControllerRevision: seconds since the epoch, when it first served

AUTOSCALED = "proa.dev/autoscaled-replicas"  # on a WorkerPool: the number that the autoscaler wrote last
MANUAL = "proa.dev/manual-at"  # on a WorkerPool: seconds since the epoch, when somebody else was found to have written
MEMORY = "proa.dev/autoscaler"  # on the decode WorkerPool: the autoscaler's memory as JSON

AUTOSCALER_MANAGER = "proa-autoscaler"  # field manager of WorkerPool.spec.replicas when the autoscaler writes it
MARKS_MANAGER = "proa-operator-marks"  # field manager of the annotations that are not part of an applied object
