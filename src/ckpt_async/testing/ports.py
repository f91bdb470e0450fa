"""Free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import socket

__all__ = ["free_ports"]

HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that were free a moment ago.

    Another process may take one before it is used, so whoever starts a server on them tries again with other ones.
    """
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind((HOST, 0))
            ports.append(int(probe.getsockname()[1]))
        return ports
