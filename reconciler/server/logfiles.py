"""Reading the log files of an instance's replicas: the last lines, and what is new since last time, across rotation and replacement.

Plain blocking file reads, called in threads. A replica's log is a list of parts, oldest first; rotation renames a part, so a place in
it is remembered by inode.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.contracts import LogFile

BLOCK = 64 * 1024
"""Bytes read at a time."""
MOST_PER_LOOK = 1024 * 1024
"""Bytes of one replica that one look may bring: bounds memory while a reader catches up with a large log."""


def current(files: Sequence[LogFile]) -> list[LogFile]:
    """What ``logs`` shows: replicas that live, else the last one that did."""
    return [file for file in files if file.live] or list(files[-1:])


def previous(files: Sequence[LogFile]) -> list[LogFile]:
    """What ``logs --previous`` shows: the newest that is not current."""
    shown = {file.serial for file in current(files)}
    return [file for file in files if file.serial not in shown][-1:]


def blocks(path: Path, offset: int = 0) -> Iterator[bytes]:
    """A part's content from ``offset`` on; nothing when it is gone."""
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            while block := stream.read(BLOCK):
                yield block
    except FileNotFoundError:
        return


def tail_starts(paths: Sequence[Path], lines: int | None) -> list[tuple[Path, int]]:
    """Where the last ``lines`` lines begin: the parts to read, oldest first, with the offset in each. None means all lines."""
    if lines is None:
        return [(path, 0) for path in paths]
    starts: list[tuple[Path, int]] = []
    wanted = lines
    for path in reversed(paths):
        if wanted <= 0:
            break
        offset, found = _last_lines(path, wanted)
        starts.insert(0, (path, offset))
        wanted -= found
    return starts


def _last_lines(path: Path, lines: int) -> tuple[int, int]:
    """Offset at which the last ``lines`` lines of a part begin, and how many there are, at most that many."""
    try:
        with path.open("rb") as stream:
            end = at = stream.seek(0, os.SEEK_END)
            found = 0
            while at > 0:
                size = min(BLOCK, at)
                at -= size
                stream.seek(at)
                block = stream.read(size)
                edge = len(block)
                while (edge := block.rfind(b"\n", 0, edge)) >= 0:
                    if at + edge == end - 1:
                        continue  # the break at the very end closes the last line
                    found += 1
                    if found == lines:
                        return at + edge + 1, lines
            return 0, found + (1 if end else 0)
    except FileNotFoundError:
        return 0, 0


@dataclass(slots=True)
class _Place:
    inode: tuple[int, int]
    offset: int


class Follower:
    """Remembers how far each replica's log was read."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._began = False

    def begin(self, files: Sequence[LogFile], lines: int | None) -> Iterator[tuple[LogFile, bytes]]:
        """The last lines of what is current; everything written later comes from :meth:`look`."""
        self._began = True
        for file in files:
            self._skip(file)
        for file in current(files):
            self._places.pop(file.serial, None)
            for path, offset in tail_starts(file.paths, lines):
                for block in self._rest(file.serial, path, offset):
                    yield file, block
            if file.serial not in self._places:
                self._skip(file)

    def look(self, files: Sequence[LogFile]) -> list[tuple[LogFile, bytes]]:
        """What was written since; a replica seen for the first time is read from its beginning."""
        found = []
        for file in files:
            taken = 0
            for path, offset in self._unread(file):
                for block in self._rest(file.serial, path, offset):
                    found.append((file, block))
                    taken += len(block)
                    if taken >= MOST_PER_LOOK:
                        break
                if taken >= MOST_PER_LOOK:
                    break
        return found

    def _unread(self, file: LogFile) -> list[tuple[Path, int]]:
        place = self._places.get(file.serial)
        if place is not None:
            for index, path in enumerate(file.paths):
                if _inode(path) == place.inode:
                    return [(path, place.offset), *((later, 0) for later in file.paths[index + 1 :])]
        return [(path, 0) for path in file.paths]

    def _rest(self, serial: int, path: Path, offset: int) -> Iterator[bytes]:
        try:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                place = self._places[serial] = _Place((status.st_dev, status.st_ino), offset)
                stream.seek(offset)
                while block := stream.read(BLOCK):
                    place.offset += len(block)
                    yield block
        except FileNotFoundError:
            return

    def _skip(self, file: LogFile) -> None:
        """Everything that is there now counts as read."""
        if not file.paths:
            return
        try:
            status = file.paths[-1].stat()
        except FileNotFoundError:
            return
        self._places[file.serial] = _Place((status.st_dev, status.st_ino), status.st_size)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
