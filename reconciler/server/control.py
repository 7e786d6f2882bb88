"""What the HTTP room uses of the controller, as a Protocol: the daemon hands in the real one, the tests a scripted one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from reconciler.control.events import EventLog
from reconciler.core.contracts import Backend, LogFile
from reconciler.core.spec import BackendsSpec, OptionValue
from reconciler.proxy.world import World


class Control(World, Protocol):
    """The controller, as far as it is reachable over HTTP. Changes raise Rejected, Conflict, Missing, Transient or Terminal."""

    @property
    def events(self) -> EventLog:
        """What happened."""
        ...

    @property
    def backends(self) -> Mapping[str, Backend]:
        """By ``backend_type``."""
        ...

    @property
    def programs(self) -> BackendsSpec:
        """Which programs the accepted file means where an instance names none."""
        ...

    def status(self) -> dict[str, object]:
        """The whole status, ready to dump."""
        ...

    async def file_pending(self) -> bool:
        """Whether the file was saved and the status does not tell of that yet."""
        ...

    def instance(self, name: str) -> dict[str, object]:
        """One instance's status."""
        ...

    def ready_report(self) -> tuple[bool, list[str]]:
        """Whether every ``running`` instance is ready, and the names of those that are not."""
        ...

    async def plan(self, text: bytes | None) -> dict[str, object]:
        """What this text, or the daemon's own file, would change."""
        ...

    async def config(self) -> tuple[bytes, str]:
        """The file's bytes and their ETag, without quotes."""
        ...

    async def apply(self, text: bytes, *, if_match: str | None) -> dict[str, object]:
        """Make ``text`` the file."""
        ...

    async def create(self, name: str, body: Mapping[str, OptionValue]) -> dict[str, object]:
        """Declare a new instance."""
        ...

    async def replace(self, name: str, body: Mapping[str, OptionValue]) -> dict[str, object]:
        """Declare an existing instance anew."""
        ...

    async def delete(self, name: str) -> dict[str, object]:
        """Take an instance out of the file."""
        ...

    async def set_enabled(self, name: str, enabled: bool) -> dict[str, object]:
        """Switch an instance on or off."""
        ...

    async def restart(self, name: str) -> dict[str, object]:
        """Replace its running processes."""
        ...

    def logs(self, name: str) -> Sequence[LogFile]:
        """Log files of its replicas, oldest first."""
        ...

    def begin_down(self) -> int:
        """Stop everything; answers how many instances run."""
        ...
