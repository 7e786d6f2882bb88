"""Watches the user's file. An event only says "look"; what counts is the file itself, read when it has come to rest.

Whatever way a file is saved (in place, renamed over, a ConfigMap's link swapped, the folder replaced, over a mount without events),
the content is seen: the folders on the way to it are watched, and every few seconds it is read anyway. A writer in the middle of its
work is waited for; one that never rests is reported, not believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import watchfiles

from reconciler.config import source
from reconciler.core.errors import Problem, Rejected
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.watch")
# it tells of every event: into a log that lies beside the file that would be an event in turn, for ever
logging.getLogger("watchfiles").setLevel(logging.WARNING)

STEP_MS = 10
DEBOUNCE_MS = 50
"""watchfiles hands over a batch after a quiet step, at the latest after the debounce; milliseconds. A shorter step would poll more."""
COMPARED_TAIL = 200
"""Bytes at the end of a file that tell a cut text from a shorter one: more than the lines that two instances often share."""
AGREEING_READS = 3
"""Equal reads in a row that make the content of a file that never rests believable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How patient the watch is; seconds."""

    settle: float = 0.03
    """Stillness asked of a file around a read: with it no torn read was seen in hundreds of chunked writes without pauses."""
    doubt: float = 0.3
    """Stillness asked instead where the text may be the beginning of a longer one, or the file is missing: a writer that pauses."""
    patience: float = 5.0
    """How long a file may keep changing before that itself is news."""
    look_every: float = 5.0
    """How often the file is read without any event."""
    rearm_first: float = 0.5
    rearm_slowest: float = 30.0
    """Pause before a broken watch is set up again, doubling between these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The file at one moment at which it was at rest."""

    identity: source.Identity
    content: source.Source | Rejected
    """Rejected when it cannot be read."""

    @property
    def digest(self) -> str:
        """Equal for equal contents."""
        return str(self.content) if isinstance(self.content, Rejected) else self.content.content_hash


class FileWatch:
    """Follows one file, or one folder of files."""

    def __init__(self, path: Path, clock: Clock, pace: Pace = Pace(), *, whole: source.Source | None = None) -> None:
        """``whole`` is a content that was known to be complete: somebody may be in the middle of a save when the watch begins."""
        self._path = path
        self._clock = clock
        self._pace = pace
        self._nudge = asyncio.Event()
        self._asked = False
        self._whole = whole
        self.error: str | None = None
        """Why there are no events, while there are none: changes are then seen by looking every few seconds."""

    def look(self) -> None:
        """Look now, and hand over what is found even if it is nothing new (SIGHUP: keys in other files may have changed)."""
        self._asked = True
        self._nudge.set()

    def nudge(self) -> None:
        """Look now."""
        self._nudge.set()

    def read(self) -> source.Source:
        """The file's content now, without waiting for it to be still."""
        return source.read(self._path)

    def is_current(self, seen: Seen) -> bool:
        """Whether the file still is what was seen; reads it when only its dates say no. Blocks."""
        return source.identify(self._path) == seen.identity or self._read_now().digest == seen.digest

    async def changes(self) -> AsyncGenerator[Seen, None]:
        """The content at first, then whenever it is another one or may be; the newest, never a queue of old ones."""
        listener = asyncio.create_task(self._listen(), name="file watch")
        last: Seen | None = None
        looked_by_itself = False
        try:
            while True:
                self._nudge.clear()
                asked, self._asked = self._asked, False
                if listener.done():
                    listener.result()  # ends by a defect only
                if last is None or asked or looked_by_itself or await self._identity() != last.identity:
                    before, last = last, await self.at_rest()
                    if isinstance(last.content, source.Source):
                        self._whole = last.content
                    if before is None or asked or (before.identity, before.digest) != (last.identity, last.digest):
                        yield last
                looked_by_itself = not await self._nudged()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _nudged(self) -> bool:
        """Whether something asked to look; False when it is time to look anyway."""
        try:
            async with asyncio.timeout(self._pace.look_every):
                return await self._nudge.wait()
        except TimeoutError:
            return False

    # ---- reading ------------------------------------------------------------------------------------------------

    async def _identity(self) -> source.Identity:
        return await asyncio.to_thread(source.identify, self._path)

    def _read_now(self) -> Seen:
        try:
            content = source.read(self._path)
        except Rejected as rejected:
            return Seen(identity=source.identify(self._path), content=rejected)
        return Seen(identity=content.identity, content=content)

    async def at_rest(self) -> Seen:
        """Read between two equal looks at the identity, ``settle`` apart, or ``doubt`` apart where the text may not be whole.

        Only watched time counts, as stillness and as patience: of the time between two looks no more than twice ``settle``. Where this
        process itself was held up (a busy machine, a suspended one), so perhaps was the writer.
        """
        looked = self._clock.monotonic()
        still = watched = 0.0
        identity = await self._identity()
        rewritten = False
        while watched < self._pace.patience:
            await self._clock.sleep(self._pace.settle)
            now = await self._identity()
            found = await asyncio.to_thread(self._read_now) if now == identity else None
            lap = min(self._clock.monotonic() - looked, 2 * self._pace.settle)
            looked = self._clock.monotonic()
            watched += lap
            if found is None or found.identity != identity:
                rewritten = rewritten or _same_files(identity, now)
                identity, still = now, 0.0
                continue
            still += lap
            if still >= self._pace.doubt or not _may_be_cut(self._whole, found.content, rewritten=rewritten):
                return found
        return await self._restless()

    async def _restless(self) -> Seen:
        """A file that never rests: its content counts if several reads agree on it."""
        found = await asyncio.to_thread(self._read_now)
        for turn in range(1, AGREEING_READS):
            await self._clock.sleep(self._pace.settle * (1 + turn / AGREEING_READS))
            again = await asyncio.to_thread(self._read_now)
            if again.digest != found.digest:
                problem = Problem(
                    message=f"cannot read: it has been changing for {self._pace.patience:g}s without a pause",
                    hint="stop what keeps writing it; the last content that was complete stays in force",
                    code="CONFIG_NOT_READABLE",
                    file=str(self._path),
                )
                return Seen(identity=again.identity, content=Rejected(problem))
        return found

    # ---- listening ----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Turn file system events into nudges; a watch that breaks is set up again, and meanwhile the file is looked at."""
        pause = self._pace.rearm_first
        while True:
            try:
                await self._listen_to(await asyncio.to_thread(_folders, self._path))
                pause = self._pace.rearm_first
            except (OSError, RuntimeError, Rejected) as error:  # watchfiles' own errors are RuntimeErrors
                self._deaf(error)
                await self._clock.sleep(pause)
                pause = min(pause * 2, self._pace.rearm_slowest)

    def _deaf(self, error: Exception) -> None:
        if self.error is None:
            log.warning(
                "cannot watch %s by events: %s; looking every %gs instead (see fs.inotify limits)",
                self._path,
                error,
                self._pace.look_every,
            )
        self.error = str(error) or type(error).__name__
        self._nudge.set()

    async def _listen_to(self, folders: tuple[Path, ...]) -> None:
        """Return when the folders on the way to the file are no longer these."""
        watched = await asyncio.to_thread(_inodes, folders)
        events = watchfiles.awatch(
            *folders,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            recursive=False,
            rust_timeout=max(1, int(self._pace.look_every * 1000)),
            yield_on_timeout=True,
        )
        # runs when the generator first waits, which is after the watch is set up: what changed before that is looked at now
        asyncio.get_running_loop().call_soon(self._nudge.set)
        async with contextlib.aclosing(_generator(events)) as batches:
            async for batch in batches:
                self.error = None
                if batch:
                    self._nudge.set()
                if await asyncio.to_thread(_moved, self._path, folders, watched):
                    self._nudge.set()
                    return


async def _generator(events: AsyncGenerator[set[tuple[watchfiles.Change, str]], None]) -> AsyncGenerator[bool, None]:
    """Whether each batch holds a change; a generator, so that it can be closed."""
    async for batch in events:
        yield bool(batch)


def _folders(path: Path) -> tuple[Path, ...]:
    """Where events can mean a change; while none of the file's own folders exist, the nearest one above that does."""
    found = source.watch_folders(path)
    if found:
        return found
    return tuple(folder for folder in path.absolute().parents if folder.is_dir())[:1]


def _moved(path: Path, folders: tuple[Path, ...], watched: list[tuple[int, int] | None]) -> bool:
    return _folders(path) != folders or _inodes(folders) != watched


def _inodes(folders: tuple[Path, ...]) -> list[tuple[int, int] | None]:
    """Which folders these paths name now: a folder that was replaced keeps its path, and a watch on the old one is deaf."""
    found: list[tuple[int, int] | None] = []
    for folder in folders:
        try:
            stat = folder.stat()
            found.append((stat.st_dev, stat.st_ino))
        except OSError:
            found.append(None)
    return found


def _same_files(before: source.Identity, after: source.Identity) -> bool:
    """Whether a file is being written where it stands: the same one, with other dates or another size."""
    old = {(one.device, one.inode): one for one in before}
    return any((one.device, one.inode) in old and old[one.device, one.inode] != one for one in after)


def _may_be_cut(before: source.Source | None, now: source.Source | Rejected, *, rewritten: bool) -> bool:
    """Whether a text could be the beginning of a longer one, or a file about to appear.

    A cut text is shorter than the one before it, or was seen growing, and does not end as that one did.
    """
    if isinstance(now, Rejected):
        return True
    if before is None:
        return rewritten
    old = {Path(file.name).name: file.data for file in before.files}
    new = {Path(file.name).name: file.data for file in now.files}
    if old.keys() - new.keys():
        return True
    for name, data in new.items():
        was = old.get(name, b"")
        if data[-COMPARED_TAIL:] != was[-COMPARED_TAIL:] and (rewritten or len(data) < len(was)):
            return True
    return False
