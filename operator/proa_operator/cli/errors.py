"""What goes wrong between a command and a cluster, as one line with the fix.

UserError (exit code 2)
  KubeconfigError   no kubeconfig, or one that cannot be used
  NotFound          no such service, group or revision
ProaError (exit code 1)
  NoCluster         the API server does not answer
  NoCrds            the cluster does not know Proa's kinds
  NotAllowed        the API server refuses who we are, or what we ask for
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from proa_operator.errors import ProaError, UserError


class KubeconfigError(UserError):
    """No kubeconfig, or one that cannot be used."""


class NotFound(UserError):
    """No such service, group or revision."""


class NoCluster(ProaError):
    """The API server does not answer."""


class NoCrds(ProaError):
    """The cluster does not know Proa's kinds."""


class NotAllowed(ProaError):
    """The API server refuses who we are, or what we ask for."""


@contextmanager
def explained(server: str) -> Iterator[None]:
    """Errors of the API client in the words of this module."""
    from proa_operator.cluster.errors import ApiError, Unreachable  # NOTE: for kopf behind it costs 0.4 s

    try:
        yield
    except Unreachable:
        text = f"the cluster at {server} does not answer: check --context, --kubeconfig and the network"
        raise NoCluster(text) from None
    except ApiError as error:
        raise explanation(error.status, error.message) from None


def explanation(status: int, message: str) -> ProaError:
    """Of an answer of the API server."""
    text = message.strip().splitlines()[0] if message.strip() else f"status {status}"
    if status == 401:
        return NotAllowed("the cluster does not accept your credentials: log in again, or choose another --context")
    if status == 403:
        return NotAllowed(f"not allowed: {text}; ask for the chart's role *-view (to read) or *-edit (to change)")
    if status == 409:
        return ProaError("someone else changed the object meanwhile: try again")
    if status == 404 and "could not find the requested resource" in text:
        return NoCrds("the cluster does not know Proa's kinds: helm install proa-crds charts/proa-crds")
    if status == 404:
        return NotFound(f"{text}; `proa status -A` lists all services")
    return ProaError(f"the API server answers {status}: {text}")
