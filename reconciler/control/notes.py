"""What a replica's runtime is asked to remember with it: that it became ready, and how long it may be without a daemon.

Each note is a task of its own; one that fails is shown, holds nobody up, and is sent again by a later pass.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from reconciler.core.contracts import Handle, Runtime
from reconciler.core.errors import Conflict, Missing, Terminal, Transient
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.notes")

NOTE_DEADLINE_S = 30.0
"""Longest one note may take, seconds; a runtime answers in milliseconds."""


class Notes:
    """Owns the tasks; :meth:`close` ends them."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime = runtime
        self._clock = clock
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._faults: dict[str, str] = {}
        self._leases: dict[str, float] = {}

    @property
    def faults(self) -> Mapping[str, str]:
        """Instances whose last note failed by a defect, with what was seen."""
        return self._faults

    def ready(self, handle: Handle) -> None:
        """Have it remembered that the replica is ready since now."""
        at = self._clock.monotonic()
        self._begin(handle, f"that {handle.replica} is ready", lambda: self._runtime.note_ready(handle, at))

    def lease(self, handle: Handle, orphan_ttl: float) -> None:
        """Have a replica know ``orphan_ttl``; nothing is sent when this daemon has told it so before."""
        if self._leases.get(handle.token) == orphan_ttl:
            return

        async def tell() -> None:
            await self._runtime.lease(handle, orphan_ttl)
            self._leases[handle.token] = orphan_ttl

        self._begin(handle, f"the orphan_ttl of {handle.replica}", tell)

    def keep(self, tokens: Collection[str]) -> None:
        """Forget what was told to replicas that are gone."""
        self._leases = {token: told for token, told in self._leases.items() if token in tokens}

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, handle: Handle, what: str, send: Callable[[], Awaitable[None]]) -> None:
        key = (handle.token, what)
        if key not in self._under_way:
            task = asyncio.create_task(self._send(handle, what, send), name=f"note {what}")
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def _send(self, handle: Handle, what: str, send: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(NOTE_DEADLINE_S):
                await send()
        except (Transient, Terminal, TimeoutError, OSError) as error:
            log.warning("cannot note %s: %s", what, error, extra={"instance": handle.instance})
        except (Conflict, Missing):
            self._faults.pop(handle.instance, None)  # it ended meanwhile: the next pass sees that
        except Exception as error:  # one instance's defect must not stop the others; it is shown and tried again
            log.exception("defect while noting %s", what, extra={"instance": handle.instance})
            self._faults[handle.instance] = f"internal error in a note about {handle.replica}: {error!r}"
        else:
            self._faults.pop(handle.instance, None)
