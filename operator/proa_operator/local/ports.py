"""Free ports on one host."""

from __future__ import annotations

import errno
import socket

from proa_operator.errors import PlanError

LAST_PORT = 32767  # above it Linux takes the ports of outgoing connections, so a restarted worker could lose its own


class FreePorts:
    """Hands out ports that nothing listens on, each once, upwards from `first`."""

    def __init__(self, host: str, first: int) -> None:
        self._host = host
        self._next = first if first <= LAST_PORT else 20000

    def __call__(self) -> int:
        """The next free port. Raises PlanError when there is none."""
        while self._next <= LAST_PORT:
            port = self._next
            self._next += 1
            if is_free(self._host, port):
                return port
        raise PlanError(f"no free port is left below {LAST_PORT} on {self._host}: give a lower --port")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on host:port now. Raises PlanError for a host that is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free to a server
        try:
            probe.bind((host, port))
        except PermissionError:
            raise PlanError(f"port {port} needs root: give a --port of 1024 or more") from None
        except socket.gaierror:
            raise PlanError(f"{host} is not an address: give --host 127.0.0.1 or 0.0.0.0") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise PlanError(f"{host} cannot be listened on ({error.strerror}): give --host 127.0.0.1") from None
    return True


def require_free(host: str, port: int) -> None:
    """Raises PlanError when something listens on host:port."""
    if not is_free(host, port):
        raise PlanError(f"port {port} on {host} is in use: stop what listens there, or give another --port")
