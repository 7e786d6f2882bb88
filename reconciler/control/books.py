"""Writes down what a later daemon must know, beside the passes of the loop: a slow disk delays neither them nor the requests.

What the books hold belongs to the keeper and the histories; here is only when they are written, and what is said when they cannot be.
"""

from __future__ import annotations

import asyncio
import logging

from reconciler.control.histories import Histories
from reconciler.control.keeper import Keeper
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.books")

SAVE_AGAIN_S = 5.0
"""Pause before what could not be written is tried again, seconds."""


class Books:
    """One task keeps them: :meth:`keep`."""

    def __init__(self, keeper: Keeper, histories: Histories, clock: Clock) -> None:
        self._keeper = keeper
        self._histories = histories
        self._clock = clock
        self._to_save = asyncio.Event()
        self._defect: str | None = None

    def look(self) -> None:
        """Something may have to be written."""
        if self._keeper.unsaved or self._histories.unsaved:
            self._to_save.set()

    def errors(self) -> list[str]:
        """Why something could not be written, for status; empty when all could."""
        return [one for one in (self._keeper.write_error, self._histories.write_error, self._defect) if one is not None]

    async def keep(self) -> None:
        """Write what changed, until cancelled; a defect is shown and tried again."""
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            try:
                await self.save()
                self._defect = None
            except Exception as error:  # it must neither end the daemon, whose models serve, nor stay unseen
                log.exception("defect while keeping the books; trying again in %gs", SAVE_AGAIN_S)
                self._defect = f"internal error while keeping the books: {error!r}"
            if self.errors():
                await self._clock.sleep(SAVE_AGAIN_S)
            self.look()

    async def save(self) -> None:
        """Write what changed, now."""
        await self._keeper.save()
        await self._histories.save()
