"""`proa-worker`: settings -> ports -> engine -> servers -> drain on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys

from proa_workers.errors import UserMistake
from proa_workers.settings import Settings, parse_settings

USER_MISTAKE = 2


def main() -> None:
    """Entry point. Exit code 0 after a clean drain, 2 with one line for a user's mistake, 1 when the engine failed."""
    try:
        settings = parse_settings(sys.argv[1:], os.environ)
        status = _profile(settings) if settings.profile else _serve(settings)
    except UserMistake as mistake:
        print(f"proa-worker: {mistake}", file=sys.stderr)
        status = USER_MISTAKE
    sys.exit(status)


def _serve(settings: Settings) -> int:
    from proa_workers import logs  # after the settings: a mistake is told at once, without importing grpc
    from proa_workers.serving.serve import serve

    logs.set_up(settings.log_format)
    return asyncio.run(serve(settings))


def _profile(settings: Settings) -> int:
    from proa_workers.profile.run import profile

    profile(settings)
    return 0


if __name__ == "__main__":
    main()
