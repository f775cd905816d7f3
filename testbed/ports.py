"""Free ports below the kernel's ephemeral range, where no outgoing connection takes one before it is bound."""

from __future__ import annotations

import random
import socket

LOWEST, HIGHEST = 20000, 31999


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """`count` different ports that could be bound on `address` just now."""
    order = random.sample(range(LOWEST, HIGHEST + 1), HIGHEST + 1 - LOWEST)
    found = (port for port in order if _is_free(address, port))
    return [next(found) for _ in range(count)]


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
