"""Finds and reads the user's file or folder of files: safely, quickly, bounded. Knows nothing of YAML.

A FIFO, a device, a socket, a loop of links or a file of a terabyte is refused before a byte of it matters. What was read carries
the identity it had while it was read, so that a watcher can tell a file at rest from one that is being written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reconciler.core.errors import Problem, Rejected

MAX_BYTES = 1024 * 1024
"""Largest file, and largest sum of a folder's files, in bytes: some 4,000 instances; YAML costs seconds per MiB beyond."""
MAX_FILES = 256
"""Most files that a folder may hold."""
FILE_NAME = "llamactl.yaml"
PATH_VARIABLE = "LLAMACTL_CONFIG_PATH"
_MAX_HOPS = 40
"""Symbolic links followed in one path, as the kernel does."""


class FileIdentity(NamedTuple):
    """One file as the system sees it without reading it; follows symbolic links."""

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int


Identity = tuple[FileIdentity, ...]
"""All files of a source, sorted by path; empty when there is nothing to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file's name, as shown to the user, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was read, at one moment."""

    root: Path
    """The file, or the folder of files."""
    files: tuple[SourceFile, ...]
    identity: Identity
    """As seen through the descriptors that were read: compare with :func:`identify` before and after."""
    content_hash: str
    """SHA-256, hex: of the bytes for one file, of names and bytes for a folder."""


def _refuse(path: Path | str, why: str, hint: str | None = None) -> Rejected:
    return Rejected(Problem(message=f"cannot read: {why}", hint=hint, code="CONFIG_NOT_READABLE", file=str(path)))


def _system_words(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "its symbolic links form a loop"
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


def find_file(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The file to use, by the documented search order; Rejected, naming every place, when there is none.

    A place that was named (``explicit``, ``LLAMACTL_CONFIG_PATH``) is never skipped: if it is missing, that is the error.
    """
    if explicit is not None:
        return _named(explicit, "the path that was given")
    variable = environ.get(PATH_VARIABLE, "")
    if variable:
        return _named(Path(variable), PATH_VARIABLE)
    places = [Path(FILE_NAME)]
    if environ.get("HOME"):
        places.append(Path(environ["HOME"], ".config", "llamactl", FILE_NAME))
    places.append(Path("/etc/llamactl", FILE_NAME))
    for place in places:
        if _is_there(place):
            return place
    looked = ", ".join(str(place) for place in places)
    raise _refuse(FILE_NAME, f"no such file; looked at {looked}", f"name one with -f or {PATH_VARIABLE}")


def _named(path: Path, origin: str) -> Path:
    if not _is_there(path):
        raise _refuse(path, f"no such file or folder ({origin})")
    return path


def _is_there(path: Path) -> bool:
    """Whether something has this name; a dangling link and a place we may not look at count, so that reading can say why."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _members(root: Path) -> tuple[Path, ...]:
    """The files of a source, unread; a folder's are sorted by name, dotfiles left out. OSError when the root cannot be seen."""
    if not stat.S_ISDIR(os.stat(root).st_mode):
        return (root,)
    found: list[Path] = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.endswith(".yaml") and not entry.name.startswith("."):
                found.append(root / entry.name)
                if len(found) > MAX_FILES:
                    raise _refuse(root, f"more than {MAX_FILES} *.yaml files in one folder")
    return tuple(sorted(found))


def read(path: Path) -> Source:
    """Read one file, or every ``*.yaml`` of a folder; Rejected (``CONFIG_NOT_READABLE``) when any of it cannot be read."""
    try:
        members = _members(path)
        is_folder = members != (path,)
    except (OSError, ValueError) as error:
        raise _refuse(path, _system_words(error) if isinstance(error, OSError) else str(error)) from error
    if not members:
        raise _refuse(path, "no *.yaml file in this folder", f"put a {FILE_NAME} there")
    files: list[SourceFile] = []
    identities: list[FileIdentity] = []
    problems: list[Problem] = []
    left = MAX_BYTES
    for member in members:
        try:
            data, identity = _read_file(member, left)
        except Rejected as refusal:
            problems.extend(refusal.problems)
            continue
        left -= len(data)
        files.append(SourceFile(name=str(member), data=data))
        identities.append(identity)
    if problems:
        raise Rejected(*problems)
    return Source(root=path, files=tuple(files), identity=tuple(identities), content_hash=_hash(files, is_folder))


def in_memory(root: Path, files: Mapping[str, bytes], *, is_folder: bool = False) -> Source:
    """A source that is not on disk yet: the text of a request, or the file as an edit will leave it. It has no identity."""
    members = [SourceFile(name=name, data=data) for name, data in sorted(files.items())]
    return Source(root=root, files=tuple(members), identity=(), content_hash=_hash(members, is_folder))


def _hash(files: list[SourceFile], is_folder: bool) -> str:
    digest = hashlib.sha256()
    for file in files:
        if is_folder:
            digest.update(f"{Path(file.name).name}\0{len(file.data)}\0".encode(errors="surrogateescape"))
        digest.update(file.data)
    return digest.hexdigest()


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _regular(path: Path, facts: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = next((words for test, words in _KINDS if test(facts.st_mode)), "something else")
        raise _refuse(path, f"this is {kind}, not a regular file")
    if facts.st_size > limit:
        raise _too_large(path)


def _too_large(path: Path) -> Rejected:
    return _refuse(
        path, f"larger than {MAX_BYTES // 1024} KiB, the limit for one file and for a folder's files together"
    )


def _read_file(path: Path, limit: int) -> tuple[bytes, FileIdentity]:
    """Bytes and identity of one regular file of at most ``limit`` bytes; never waits for a writer, never reads a device."""
    try:
        _regular(path, os.stat(path), limit)  # before open: opening a device can already have an effect
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            facts = os.fstat(descriptor)
            _regular(path, facts, limit)
            parts: list[bytes] = []
            left = limit + 1  # one more than allowed, to notice a file that grew
            while left and (part := os.read(descriptor, left)):
                parts.append(part)
                left -= len(part)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _refuse(path, _system_words(error)) from error
    except ValueError as error:  # a NUL in the path
        raise _refuse(repr(str(path)), str(error)) from error
    if not left:
        raise _too_large(path)
    return b"".join(parts), _identity(path, facts)


def _identity(path: Path, facts: os.stat_result) -> FileIdentity:
    return FileIdentity(str(path), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def identify(path: Path) -> Identity:
    """What :func:`read` would read, by a few ``stat`` calls; a file that cannot be seen is left out. Raises nothing."""
    try:
        members = _members(path)
    except (OSError, ValueError, Rejected):
        return ()
    found: list[FileIdentity] = []
    for member in members:
        try:
            found.append(_identity(member, os.stat(member)))
        except OSError:
            continue
    return tuple(found)


def watch_folders(path: Path) -> tuple[Path, ...]:
    """Existing folders in which an event can mean that the source changed: of the path, of every symbolic link on the way.

    A folder given as source is itself among them, and so is its parent, because a replaced folder goes silent.
    """
    folders: dict[Path, None] = {}
    starts = [path]
    if path.is_dir():
        folders[_absolute(path)] = None
        with suppress(OSError, Rejected):
            starts.extend(_members(path))
    for start in starts:
        for folder in _hops(_absolute(start)):
            folders[folder] = None
    return tuple(folder for folder in folders if folder.is_dir())


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _hops(path: Path) -> list[Path]:
    """Parents of the path, of each symbolic link among its components, and of what they lead to."""
    folders = [path.parent]
    for _ in range(_MAX_HOPS):
        link = next((part for part in (*reversed(path.parents), path) if part.is_symlink()), None)
        if link is None:
            break
        folders.append(link.parent)
        try:
            target = os.readlink(link)
        except OSError:
            break
        path = _absolute(link.parent / target / path.relative_to(link))
        folders.append(path.parent)
    return folders
