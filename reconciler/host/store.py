"""The state folder: who owns it, how files in it are written and read, and how the command line finds the daemon.

Nothing in here knows what the files mean. A write leaves the whole old file or the whole new one, whatever fails or dies meanwhile;
a file that cannot be read is put aside and counts as absent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from reconciler.core.errors import Conflict
from reconciler.host.clock import Clock

logger = logging.getLogger(__name__)

LOCK_NAME = "daemon.lock"
ANNOUNCEMENT_NAME = "daemon.json"
LOCK_PATIENCE_S = 0.5
"""How long a starting daemon tries for the lock, seconds: :func:`read_announcement` of a command line holds it for microseconds."""
_LOCK_RETRY_S = 0.05
_HELD = frozenset({errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK})


def state_dir(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Where state lives: the flag, ``LLAMACTL_STATE_DIR``, systemd's ``STATE_DIRECTORY`` (its first), the platform's folder."""
    if explicit is not None:
        return explicit.expanduser().absolute()
    if named := environ.get("LLAMACTL_STATE_DIR"):
        return Path(named).expanduser().absolute()
    if given := environ.get("STATE_DIRECTORY", "").split(":", maxsplit=1)[0]:
        return Path(given).absolute()
    return platformdirs.user_state_path("llamactl", appauthor=False)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _keep_attributes(descriptor: int, source: Path, old: os.stat_result) -> None:
    """Owner, extended attributes, mode, in the order in which one does not undo the other."""
    fresh = os.fstat(descriptor)
    if (fresh.st_uid, fresh.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):  # not every file system has them, and none is worth a refused edit
            for name in os.listxattr(source):
                os.setxattr(descriptor, name, os.getxattr(source, name))
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def write_atomic(path: Path, data: bytes, mode: int = 0o600, *, ready: Callable[[], None] | None = None) -> None:
    """Replace ``path`` by ``data``: temporary file beside it, fsync, rename, fsync of the folder.

    A symbolic link stays, its target is replaced. A file that exists keeps its mode, owner and extended attributes; ``mode`` is for a
    new one. ``ready`` is called when all is written, right before the rename: what it raises leaves the old file. OSError when it cannot
    be done (an owner that cannot be kept included); the old file is then untouched. Other hard links to the file keep the old content.
    """
    target = Path(os.path.realpath(path))
    old: os.stat_result | None = None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(target)
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(target))
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(descriptor, data)
            if old is None:
                os.fchmod(descriptor, mode)
            else:
                _keep_attributes(descriptor, target, old)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if ready is not None:
            ready()
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def write_json(path: Path, value: Mapping[str, object], mode: int = 0o600) -> None:
    """:func:`write_atomic` of a JSON object."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n", mode)


def quarantine(path: Path, reason: str) -> None:
    """Put a file that makes no sense aside as ``NAME.bad`` (replacing an older one) and say so in the log."""
    bad = path.with_name(path.name + ".bad")
    with contextlib.suppress(OSError):
        os.replace(path, bad)
    logger.warning("cannot use %s: %s; kept as %s and treated as absent", path, reason, bad.name)


def read_json(path: Path) -> dict[str, object] | None:
    """The JSON object in ``path``; None when there is none. Garbage is quarantined; OSError other than absence is raised."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        quarantine(path, f"not JSON ({type(error).__name__})")
        return None
    if not isinstance(value, dict):
        quarantine(path, "not a JSON object")
        return None
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """How to reach the daemon that owns a state folder."""

    pid: int
    url: str
    """Base URL, without a trailing slash."""
    key: str = field(repr=False)
    """A management key made for this run of the daemon, for local command lines."""


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def is_locked(path: Path) -> bool:
    """Whether some process holds the exclusive flock on ``path``; a missing file is free. Holds a shared lock for an instant."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _stored_announcement(folder: Path) -> Announcement | None:
    try:
        value = json.loads((folder / ANNOUNCEMENT_NAME).read_bytes())
        return Announcement(pid=int(value["pid"]), url=str(value["url"]), key=str(value["key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_announcement(folder: Path) -> Announcement | None:
    """The live daemon of a state folder; None when no daemon holds the folder's lock or it has not announced itself yet."""
    try:
        if not is_locked(folder / LOCK_NAME):
            return None
    except OSError:
        return None  # no access: not ours to find
    return _stored_announcement(folder)


class StateFolder:
    """A state folder owned by this daemon: while the object is open, no other daemon can take it."""

    def __init__(self, path: Path, lock: int) -> None:
        """Use :meth:`take`."""
        self.path = path
        self._lock: int | None = lock

    @classmethod
    async def take(cls, path: Path, *, clock: Clock) -> StateFolder:
        """Create the folder (0700) and lock it; Conflict names the daemon that holds it, OSError when it cannot be made."""
        descriptor = cls._open(path)
        try:
            deadline = clock.monotonic() + LOCK_PATIENCE_S
            while not _try_lock(descriptor, fcntl.LOCK_EX):
                if clock.monotonic() >= deadline:
                    raise Conflict(cls._held_message(path))
                await clock.sleep(_LOCK_RETRY_S)
            with contextlib.suppress(OSError):
                (path / ANNOUNCEMENT_NAME).unlink()  # of a daemon that is gone
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    @staticmethod
    def _open(path: Path) -> int:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if stat.S_IMODE(path.stat().st_mode) != 0o700:
            path.chmod(0o700)
        return os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @staticmethod
    def _held_message(path: Path) -> str:
        holder = _stored_announcement(path)
        who = f"pid {holder.pid}, {holder.url}" if holder is not None else "still starting"
        return (
            f"cannot use the state folder {path}: another daemon has it ({who}); "
            "try `llamactl status` to talk to that one, or give this one its own folder with --state-dir"
        )

    def announce(self, *, url: str, key: str, pid: int | None = None) -> None:
        """Let command lines on this host find the daemon (``daemon.json``, 0600)."""
        value = {"pid": os.getpid() if pid is None else pid, "url": url.rstrip("/"), "key": key}
        write_json(self.path / ANNOUNCEMENT_NAME, value)

    def close(self) -> None:
        """Withdraw the announcement and let go of the folder; twice is fine."""
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            (self.path / ANNOUNCEMENT_NAME).unlink()
        os.close(self._lock)
        self._lock = None
