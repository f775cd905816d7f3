"""Exit status 0 when the model is there, 2 for what a retry cannot mend, another for what it can."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from proa_operator.errors import ProaError
from proa_operator.logs import log_to_stderr
from proa_operator.model_download.download import download
from proa_operator.model_download.errors import NoRoom
from proa_operator.model_download.progress import Phase, Progress, told
from proa_operator.model_download.settings import Settings, read_settings
from proa_operator.model_download.stop import Stop

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The last line on stderr says what went wrong."""
    log_to_stderr("json")
    for name in ("httpx", "httpcore"):  # NOTE: they log addresses, and a signed address is a secret
        logging.getLogger(name).setLevel(logging.WARNING)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.set())
    try:
        run(read_settings(arguments, environment), stop)
    except ProaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def run(settings: Settings, stop: Stop) -> None:
    """ProaError for everything that may happen."""
    progress = Progress()
    try:
        with told(progress, settings.progress_port):
            try:
                download(settings, progress, stop)
            except (ProaError, OSError):
                progress.enter(Phase.FAILED)
                raise
    except OSError as error:
        raise _explained(error, settings) from None


def _explained(error: OSError, settings: Settings) -> ProaError:
    place = settings.target.parent
    if error.errno in _NO_ROOM:
        return NoRoom(f"{place} is full: raise spec.model.cache.size")
    if error.errno in _NO_RIGHT:
        return ProaError(
            f"{place} cannot be written by user {os.getuid()} ({error.strerror}): check the claim's access"
        )
    if error.errno == errno.EADDRINUSE:
        return ProaError(f"port {settings.progress_port} is taken: choose another --progress-port")
    return ProaError(f"{place}: {error.strerror or error}: the next run goes on")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
