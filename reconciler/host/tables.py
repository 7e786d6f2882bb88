"""Keeps what was read from installed programs: a bounded number of files in the state folder, each with what it was read from.

What a table says is not known here. Several processes may write at once; a file that makes no sense is put aside and told. A table decides
how servers are called, so only what nobody but this user and root can have written counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.core.options import OptionTable
from reconciler.host import store
from reconciler.host.programs import Identity, Program

FOLDER_NAME = "vocabularies"
FORMAT = 1
"""Of the files; one with another number was written by another version of llamactl and is left alone."""
MOST_KEPT = 16
"""Files; the oldest go first. More versions of three servers are not in use on one host."""
MOST_BYTES = 16 * 1024 * 1024
"""Of one file; vLLM's table with all help texts has 0.3 MB."""
_NAME = re.compile(r"(?P<kind>[a-z0-9_]+)-[0-9a-f]{16}\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One table, and the program it was read from."""

    kind: str
    program: Program
    identity: Identity
    reader: str
    """Digest of the way in which it was read: another way may read other things."""
    read_at: str
    """RFC 3339."""
    table: OptionTable


_Signature = tuple[int, ...]


class Tables:
    """The folder. Gives the same object for the same file as long as it does not change. Not for several threads at once."""

    def __init__(self, state: Path, say: Callable[[str], None]) -> None:
        """``say`` is told, once each, of files that cannot be used."""
        self.folder = state / FOLDER_NAME
        self.unreadable: str | None = None
        """Why the folder cannot be looked into; None when it can, or when there is none."""
        self._state = state
        self._say = say
        self._read: dict[str, tuple[_Signature, Kept | None]] = {}
        self._told: set[str] = set()

    def of(self, kind: str) -> tuple[Kept, ...]:
        """Everything that was kept of one kind, newest first; nothing where the folder is missing, cannot be read or is not only ours."""
        self.unreadable = None
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            self.unreadable = f"cannot look into {self.folder}: {error.strerror or error}"
            return ()
        try:
            if (why := _distrusted(os.fstat(folder))) is not None:
                self._ignore(self.folder, why, _repair(self.folder, "700"))
                return ()
            found = [name for name in os.listdir(folder) if (named := _NAME.fullmatch(name)) and named["kind"] == kind]
            dated = [one for name in found if (one := self._one(folder, name, kind)) is not None]
        except OSError as error:
            self.unreadable = f"cannot look into {self.folder}: {error.strerror or error}"
            return ()
        finally:
            os.close(folder)
        return tuple(kept for _, kept in sorted(dated, key=lambda pair: -pair[0]))

    def _one(self, folder: int, name: str, kind: str) -> tuple[int, Kept] | None:
        """When it was written, and what; the file is looked at by ``folder``, so that no other folder can take its place meanwhile."""
        path = self.folder / name
        try:
            status = os.stat(name, dir_fd=folder)
            known = self._read.get(name)
            if known is None or known[0] != _signature(status):
                self._read[name] = known = (_signature(status), None)  # whatever goes wrong now is told once
                if (why := _distrusted(status)) is not None:
                    self._ignore(path, why, _repair(path, "600"))
                    return None
                known = self._read[name] = self._parse(folder, path, kind)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._ignore(path, error.strerror or str(error), "")
            return None
        return (status.st_mtime_ns, known[1]) if known[1] is not None else None

    def _ignore(self, path: Path, why: str, hint: str) -> None:
        text = f"cannot use {path}: {why}; it is ignored" + (f" ({hint})" if hint else "")
        if text not in self._told:
            self._told.add(text)
            self._say(text)

    def _parse(self, folder: int, path: Path, kind: str) -> tuple[_Signature, Kept | None]:
        """What a file holds, and which one it was: the one that was opened. It is opened so that nothing can hold that up."""
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            signature = _signature(status)
            if (why := _distrusted(status)) is not None:
                raise PermissionError(1, why, str(path))
            content = file.read(MOST_BYTES + 1) if stat.S_ISREG(status.st_mode) else None
        if content is None:
            raise OSError(22, "it is no regular file", str(path))
        if len(content) > MOST_BYTES:
            self.put_aside(path.name, f"larger than {MOST_BYTES // (1024 * 1024)} MiB")
            return signature, None
        try:
            data = json.loads(content)
            if data["format"] != FORMAT:
                self._say(
                    f"{path} was written by another version of llamactl (format {data['format']!r}); it is ignored"
                )
                return signature, None
            kept = _from_json(data)
            if kept.kind != kind or path.name != _name(kept):
                raise ValueError("it is another one's")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.put_aside(path.name, f"no table of options ({type(error).__name__}: {error})"[:200])
            return signature, None
        return signature, kept

    def put_aside(self, name: str, reason: str) -> None:
        """Move a file that cannot be used out of the way; the log tells."""
        store.quarantine(self.folder / name, reason)

    def reject(self, kept: Kept, reason: str) -> None:
        """:meth:`put_aside` for a table that turned out to be none."""
        self.put_aside(_name(kept), reason)

    def keep(self, kept: Kept) -> Path:
        """Write it down; OSError when that cannot be done. The oldest files beyond :data:`MOST_KEPT` go."""
        for folder in (self._state, self.folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = self.folder.stat().st_uid
        if (
            owner != os.geteuid()
        ):  # a file of ours would be closed to its owner, and a link of its owner's could mislead us
            raise PermissionError(1, f"it belongs to user {owner}: run this as that user", str(self.folder))
        if (why := _distrusted(self.folder.stat())) is not None:  # what is kept there would not be read
            raise PermissionError(1, f"{why}; {_repair(self.folder, '700')}", str(self.folder))
        path = self.folder / _name(kept)
        store.write_json(path, _as_json(kept))
        self._read[path.name] = (_signature(path.stat()), kept)
        self._prune()
        return path

    def _prune(self) -> None:
        with os.scandir(self.folder) as entries:
            files = [(_time(entry), entry.path) for entry in entries if _NAME.fullmatch(entry.name)]
        for _, path in sorted(files, reverse=True)[MOST_KEPT:]:
            with contextlib.suppress(OSError):  # another process was faster
                os.unlink(path)


def _name(kept: Kept) -> str:
    return f"{kept.kind}-{kept.identity.digest[:16]}.json"


def _time(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_mtime_ns
    except OSError:
        return 0


def _signature(status: os.stat_result) -> _Signature:
    """Which file it is, what it holds and whose it is, as far as the system tells without opening it."""
    where = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return (*where, status.st_mode, status.st_uid)


def _distrusted(status: os.stat_result) -> str | None:
    """Why a file or folder may hold what somebody else wrote; None when only this user and root can have written it."""
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {status.st_uid}, not to this one"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it"
    return None


def _repair(path: Path, mode: str) -> str:
    return f"see what is in it, then `chmod {mode} {shlex.quote(str(path))}`, or remove it"


def _sum(table: OptionTable) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _as_json(kept: Kept) -> dict[str, object]:
    program, identity = kept.program, kept.identity
    return {
        "format": FORMAT,
        "kind": kept.kind,
        "program": {
            "path": program.path,
            "command": list(program.command),
            "interpreter": list(program.interpreter),
            "content": program.content,
            "caveat": program.caveat,
        },
        "identity": {"digest": identity.digest, "seen": [list(one) for one in identity.seen], "site": identity.site},
        "reader": kept.reader,
        "read_at": kept.read_at,
        "sum": _sum(kept.table),
        "table": kept.table,
    }


def _from_json(data: Mapping[str, Any]) -> Kept:
    """KeyError, TypeError or ValueError for anything but what :func:`_as_json` made."""
    program, identity, table = data["program"], data["identity"], data["table"]
    if not isinstance(table, dict) or data["sum"] != _sum(table):
        raise ValueError("the table is not what was written")
    return Kept(
        kind=_text(data["kind"]),
        program=Program(
            path=_text(program["path"]),
            command=tuple(map(_text, program["command"])),
            interpreter=tuple(map(_text, program["interpreter"])),
            content=_optional(program["content"]),
            caveat=_optional(program["caveat"]),
        ),
        identity=Identity(
            digest=_text(identity["digest"]),
            seen=tuple(tuple(map(_text, one)) for one in identity["seen"]),
            site=_optional(identity["site"]),
        ),
        reader=_text(data["reader"]),
        read_at=_text(data["read_at"]),
        table=table,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)
