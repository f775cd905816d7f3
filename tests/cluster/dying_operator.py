"""The operator, killed right before or right after its n-th write. For tests only: DIE=before:3 or DIE=after:1."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from proa_operator import main
from proa_operator.cluster.api import Api

WHEN, _, NUMBER = os.environ.pop("DIE").partition(":")
LEFT = [int(NUMBER)]
WRITE = Api._write


async def write_and_die(self: Api, method: str, ref: Any, *rest: Any, **named: Any) -> Any:
    """The Lease does not count: an operator at rest has to live."""
    if ref.kind.name == "Lease":
        return await WRITE(self, method, ref, *rest, **named)
    LEFT[0] -= 1
    if WHEN == "before" and LEFT[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    answer = await WRITE(self, method, ref, *rest, **named)
    if WHEN == "after" and LEFT[0] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer


if __name__ == "__main__":
    Api._write = write_and_die  # type: ignore[method-assign]
    sys.exit(main.main())
