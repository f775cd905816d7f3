"""What goes wrong in a download.

UserError (exit code 2: a retry cannot mend it)
  Refused          no such model, no access, a file name that leaves the folder
    WrongDigest    what came is not what was listed
ProaError (another exit code: a retry goes on where this run stopped)
  AttemptFailed    one request failed; inside the process it is tried again
    RangeRefused   the server has less than we already hold
  GaveUp           too many attempts failed in a row
  NoRoom           the volume is too small; a claim that has grown is enough
  LostLock         another process took over, because this one stood still
  Stopped          SIGTERM or SIGINT
"""

from __future__ import annotations

from proa_operator.errors import ProaError, UserError


class Refused(UserError):
    """A retry cannot mend it; the text says what can."""


class WrongDigest(Refused):
    """What came is not what was listed."""


class AttemptFailed(ProaError):
    """One request failed. `after_seconds` is the server's wish, 0 without one."""

    def __init__(self, text: str, after_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.after_seconds = after_seconds


class RangeRefused(AttemptFailed):
    """The server has less of the file than we hold."""


class GaveUp(ProaError):
    """Too many attempts failed in a row."""


class NoRoom(ProaError):
    """The volume is too small."""


class LostLock(ProaError):
    """Another process took over."""


class Stopped(ProaError):
    """Asked to end."""

    exit_code = 143  # as a shell reports a program that SIGTERM ended
