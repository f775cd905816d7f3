"""`python -m testbed.up`: start the one-node cluster and leave it running (`make cluster-up`)."""

from __future__ import annotations

import sys

from testbed.build import CONTROL_PLANE, build
from testbed.cluster import Cluster
from testbed.control_plane import run_folder
from testbed.errors import BedError
from testbed.images.images import images
from testbed.node.containerd import Containerd
from testbed.node.node import NodeCluster
from testbed.progress import say
from testbed.tiers import why_not
from testbed.undo import tear_down

NAME = "cluster"


def up() -> Cluster:
    """The running cluster with the checkout's images, started when it is not there or no longer answers."""
    run = run_folder(NAME)
    running = Cluster(kubeconfig=run / "admin.kubeconfig", programs=build(CONTROL_PLANE), run=run)
    if run.exists() and running.tried("kubectl", "get", "--raw=/readyz", "--request-timeout=5s").returncode == 0:
        if Containerd(run).load(images()):
            say("newer images loaded; running pods keep theirs until they are deleted")
        return running
    tear_down(run)
    bed = NodeCluster(name=NAME, is_kept=True)
    bed.start()
    return bed


def main() -> None:
    """Start it and print the lines that a shell needs to use it; exit status 2 where this machine cannot."""
    if reason := why_not("b"):
        print(f"no cluster on this machine: {reason}", file=sys.stderr)
        raise SystemExit(2)
    try:
        bed = up()
    except BedError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    print(f"export KUBECONFIG={bed.kubeconfig}")
    print(f"export PATH={bed.programs}:$PATH")


if __name__ == "__main__":
    main()
