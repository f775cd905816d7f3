"""`python -m testbed.down`: stop the cluster that `testbed.up` started (`make cluster-down`)."""

from __future__ import annotations

import sys

from testbed.control_plane import run_folder
from testbed.errors import BedError
from testbed.undo import tear_down
from testbed.up import NAME


def main() -> None:
    """Stop it; nothing to do is no error."""
    run = run_folder(NAME)
    if not run.exists():
        print("no cluster is running", file=sys.stderr)
        return
    try:
        tear_down(run)
    except BedError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
