"""Tells the service manager how the daemon is (``sd_notify``); silent where there is none."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping


class Notifier:
    """One datagram socket to systemd, or nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._last = ""

    @property
    def active(self) -> bool:
        """Whether a service manager listens."""
        return bool(self._address)

    def send(self, *lines: str) -> None:
        """``READY=1``, ``STATUS=...``, ``WATCHDOG=1``, ``STOPPING=1``; a lost message is not worth an error."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.connect(self._address)
            sock.sendall("\n".join(lines).encode())
