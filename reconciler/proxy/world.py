"""What the proxy needs of the controller, and nothing more; the tests have a scripted one."""

from __future__ import annotations

from typing import Protocol

from reconciler.control.leases import Leases
from reconciler.control.routes import Routes
from reconciler.host.clock import Clock


class World(Protocol):
    """The routes in force, who is in flight, and the time."""

    @property
    def routes(self) -> Routes:
        """The snapshot in force; read it per request."""
        ...

    @property
    def leases(self) -> Leases:
        """The book of requests."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    async def routes_changed(self, seen: Routes, timeout: float) -> Routes:  # noqa: ASYNC109  # the controller's signature
        """The next snapshot that is not ``seen``, as soon as there is one; TimeoutError after ``timeout`` seconds."""
        ...
