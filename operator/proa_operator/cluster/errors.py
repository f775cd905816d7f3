"""Errors of the shell.

ClusterError
  ApiError        the API server answered with an error status
    Gone            404
    Conflict        409: someone else was faster, or the object is another one by now
    Busy            410, 429 and 5xx: the same request, or the same list from its start, may succeed soon
    Refused         403, 422 and 400: the same write will be refused again
  Unreachable     no answer within the deadline
  LostLease       this replica may not write any more
"""

from __future__ import annotations

from proa_operator.errors import ProaError


class ClusterError(ProaError):
    """Base of what can go wrong between the operator and the cluster; all but Refused are worth a retry."""


class ApiError(ClusterError):
    """The API server answered with an error status."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class Gone(ApiError):
    """There is no such object, or no such kind."""


class Conflict(ApiError):
    """Someone else was faster, or a precondition does not hold."""


class Refused(ApiError):
    """Admission, quota, validation or RBAC refuses this write, and would do it again."""


class Busy(ApiError):
    """The API server has no time, or is starting."""


class Unreachable(ClusterError):
    """No answer within the deadline."""


class LostLease(ClusterError):
    """This replica may not write any more."""


def api_error(status: int, reason: str, message: str) -> ApiError:
    """The class that belongs to the status."""
    kinds = {404: Gone, 409: Conflict, 400: Refused, 403: Refused, 422: Refused, 410: Busy, 429: Busy}
    return kinds.get(status, Busy if status >= 500 else ApiError)(status, reason, message)
