"""Which port a replica gets: pinned, the one it had, or the first of the range that this host really lets us bind now.

A stranger on a wanted port is named and left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Collection

import psutil

from reconciler.core.errors import Terminal, Transient

_TAKEN = frozenset({errno.EADDRINUSE, errno.EACCES})


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, (str(address[0]), int(address[1]))) for family, _, _, _, address in found]


def bindable(host: str, port: int) -> bool:
    """Whether a server could listen there now. Terminal when the address is not one of this host."""
    try:
        for family, address in _addresses(host, port):
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
                probe.bind(address)
    except socket.gaierror as error:
        raise Terminal(f"cannot listen on {host}: {error.strerror}; try an address of this host") from None
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno == errno.EADDRNOTAVAIL:
            raise Terminal(f"cannot listen on {host}: it is not an address of this host; try 127.0.0.1") from None
        raise Transient(f"cannot test port {port} on {host}: {error.strerror}") from None
    return True


def first_free(host: str, span: tuple[int, int], *, preferred: int | None, avoid: Collection[int]) -> int:
    """A port of the range, the preferred one if it is free; Transient when every one is taken."""
    first, last = span
    if preferred is not None and first <= preferred <= last and preferred not in avoid and bindable(host, preferred):
        return preferred
    for port in range(first, last + 1):
        if port not in avoid and bindable(host, port):
            return port
    raise Transient(f"cannot find a free port: {first}-{last} are all in use; try a wider server.port_range")


def _listener(port: int) -> str | None:
    with contextlib.suppress(psutil.Error, OSError, RuntimeError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    return None
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    return None


async def holder(port: int) -> str:
    """Who listens on a port, for a message: pid and program when the system lets us see them."""
    return await asyncio.to_thread(_listener, port) or "a process that this user may not see"
