"""Reading the log files of an instance's replicas: the last lines, and what is new since last time, across rotation and replacement.

Plain blocking file reads, called in threads. A replica's log is a list of parts, oldest first. Rotation renames a part, so a follower
keeps the part that it reads open: its inode then names it wherever it went, and is not given to another file meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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


_Inode = tuple[int, int]
"""Device and number."""


@dataclass(slots=True)
class _Place:
    stream: BinaryIO
    inode: _Inode
    file: LogFile | None = None
    """As listed last."""
    lost: bool = False
    """Its part was not among those listed. The list may be older than a rotation, so this counts only when it happens again."""


class Follower:
    """Remembers how far each replica's log was read. A rotation at any moment loses and repeats nothing."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}

    def close(self) -> None:
        """Let go of the files."""
        for place in self._places.values():
            place.stream.close()
        self._places.clear()

    def begin(self, files: Sequence[LogFile], lines: int | None) -> None:
        """The next looks bring the last lines of what is current, and of every replica what is written from now on."""
        shown = {file.serial for file in current(files)}
        for file in files:
            starts = tail_starts(file.paths, lines if file.serial in shown else 0)
            path, offset = starts[0] if starts else (file.paths[-1] if file.paths else None, None)
            if path is not None and self._enter(file.serial, path):
                stream = self._places[file.serial].stream
                stream.seek(offset or 0, os.SEEK_SET if offset is not None else os.SEEK_END)

    def look(self, files: Sequence[LogFile]) -> list[tuple[LogFile, bytes]]:
        """What was written since; a replica seen for the first time is read from its beginning. Bounded: look again until empty."""
        found = self._leave(frozenset(file.serial for file in files))
        for file in files:
            if file.serial not in self._places and not any(self._enter(file.serial, path) for path in file.paths):
                continue
            left = MOST_PER_LOOK
            self._places[file.serial].file = file
            while left > 0:
                following = self._following(file)  # asked first: what is read to its end after that is complete
                while left > 0 and (block := self._places[file.serial].stream.read(BLOCK)):
                    found.append((file, block))
                    left -= len(block)
                if left <= 0 or following is None or not self._enter(file.serial, *following):
                    break
        return found

    def _leave(self, listed: frozenset[int]) -> list[tuple[LogFile, bytes]]:
        """Read what is left of replicas that are no longer listed, and let go of their files: an open one keeps its disk space."""
        found: list[tuple[LogFile, bytes]] = []
        for serial in [serial for serial in self._places if serial not in listed]:
            place = self._places.pop(serial)
            with place.stream:
                rest = place.stream.read(MOST_PER_LOOK)
                if rest and place.file is not None:
                    found.append((place.file, rest))
        return found

    def _following(self, file: LogFile) -> tuple[Path, _Inode] | None:
        """The part after the one that is read, if that one is complete."""
        parts = [(path, inode) for path in file.paths if (inode := _inode(path)) is not None]
        place = self._places[file.serial]
        for index, (_, inode) in enumerate(parts):
            if inode == place.inode:
                place.lost = False
                return parts[index + 1] if index + 1 < len(parts) else None
        if place.lost and parts:
            return parts[0]  # it was rotated out of existence
        place.lost = True
        return None

    def _enter(self, serial: int, path: Path, inode: _Inode | None = None) -> bool:
        """Read this part from its beginning on; False when it is gone or no longer the one that was meant."""
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            return False
        status = os.fstat(stream.fileno())
        found = (status.st_dev, status.st_ino)
        if inode is not None and found != inode:
            stream.close()
            return False
        former = self._places.get(serial)
        if former is not None:
            former.stream.close()
        self._places[serial] = _Place(stream, found, former.file if former is not None else None)
        return True


def _inode(path: Path) -> _Inode | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
