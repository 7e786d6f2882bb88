"""What a shim leaves on disk, as values: one folder per replica, ``replicas/INSTANCE/SERIAL``, and what may be believed of it.

Everything read here is checked before it is used, and nothing in it is ever a reason to signal a process: only the lock, the shim's own
answer and the token in a process's environment are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.core.contracts import LogFile
from reconciler.core.spec import NAME_PATTERN
from reconciler.host.store import is_locked, quarantine, read_json

logger = logging.getLogger(__name__)

PROTOCOL = 1
"""Version of the shim's files and messages that this daemon understands."""
KEPT_ENDED = 3
"""Ended replicas per instance whose logs stay for ``logs --previous``."""
STATE, EXIT, ENDED, LOCK, CONTROL = "state.json", "exit.json", "ended.json", "lock", "control"

Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FolderId = tuple[int, int]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ShimExit(_Record):
    """How the main process ended."""

    code: int | None
    signal: str | None
    at: Seconds
    monotonic: Seconds
    asked: str | None
    error: str | None
    log_tail: tuple[str, ...]


class ShimState(_Record):
    """All that a shim says about its replica, on the wire and on disk."""

    version: int
    token: Token
    boot: str
    instance: Annotated[str, Field(pattern=NAME_PATTERN)]
    serial: Annotated[int, Field(ge=0)]
    revision: str
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    served_model: str | None
    folder_id: FolderId
    pid: Annotated[int, Field(gt=1)] | None
    shim_pid: Annotated[int, Field(gt=1)] | None = None
    """The shim's own; true only while the connection over which it came is open."""
    started_at: Seconds
    started_monotonic: Seconds
    ready_since: Seconds | None
    stop_since: Seconds | None
    asked: str | None
    killed: bool
    degraded: tuple[str, ...]
    dropped_log_bytes: Annotated[int, Field(ge=0)]
    exit: ShimExit | None
    gone: bool
    stop_signal: Literal["SIGTERM", "SIGINT", "SIGQUIT"] | None = None
    grace: Seconds | None = None
    """This and the signal: not said by older shims."""


class ShimMark(_Record):
    """What the lock file says: enough to look for leftovers when the state cannot be read."""

    token: Token
    folder_id: FolderId


def folder_id(folder: Path) -> FolderId:
    """Device and inode: a copy of a replica's folder is not that replica."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def boot_id() -> str:
    """Names this run of the host's kernel; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return ""


class Found(Enum):
    """What a folder turned out to be."""

    HELD = "held"
    """A shim lives there."""
    ENDED = "ended"
    """It ended in good order; ``state.exit`` says how."""
    LOST = "lost"
    """Its shim died without a word: something of it may be left."""
    REBOOTED = "rebooted"
    """The host went down over it: nothing is left."""
    NOTHING = "nothing"
    """No replica: only logs, or nothing at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReport:
    """One replica's folder, looked at."""

    found: Found
    instance: str
    serial: int
    folder: Path
    state: ShimState | None = None
    token: str = ""
    """To sweep by; empty when nothing could be believed."""


def _state_in(path: Path) -> ShimState | None:
    """A believable state; anything else is put aside."""
    value = read_json(path)
    if value is None:
        return None
    try:
        state = ShimState.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        quarantine(path, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
        return None
    wrong = _contradiction(state, path.parent)
    if wrong:
        quarantine(path, wrong)
        return None
    return state


def _contradiction(state: ShimState, folder: Path) -> str | None:
    if state.version != PROTOCOL:
        return f"version {state.version}, this daemon knows {PROTOCOL}"
    if (state.instance, str(state.serial)) != (folder.parent.name, folder.name):
        return f"it speaks of {state.instance}#{state.serial}"
    if state.folder_id != folder_id(folder):
        return "it is a copy of another folder"
    return None


def _mark_in(folder: Path) -> ShimMark | None:
    with contextlib.suppress(OSError, ValidationError):
        mark = ShimMark.model_validate_json((folder / LOCK).read_bytes())
        return mark if mark.folder_id == folder_id(folder) else None
    return None


def look(folder: Path, boot: str) -> FolderReport:
    """What is in a replica's folder. OSError when it cannot be read at all."""
    instance, serial = folder.parent.name, int(folder.name)

    def report(found: Found, state: ShimState | None = None, token: str = "") -> FolderReport:
        return FolderReport(found=found, instance=instance, serial=serial, folder=folder, state=state, token=token)

    held = is_locked(folder / LOCK)
    state = _state_in(folder / STATE)
    if held:
        return report(Found.HELD, state, state.token if state else "")
    if (ended := _state_in(folder / EXIT)) is not None and ended.exit is not None:
        return report(Found.ENDED, ended, ended.token)
    mark = _mark_in(folder)
    if state is None and mark is None:
        return report(Found.NOTHING)
    if state is not None and state.boot != boot:
        return report(Found.REBOOTED, state, state.token)
    return report(Found.LOST, state, state.token if state is not None else mark.token if mark is not None else "")


def replica_folders(root: Path) -> Iterator[Path]:
    """Every ``INSTANCE/SERIAL`` below ``root``, in order; links and strange names are passed over."""
    if not root.is_dir():
        return
    for instance in sorted(root.iterdir()):
        if re.match(NAME_PATTERN, instance.name) and instance.is_dir() and not instance.is_symlink():
            yield from serial_folders(instance)


def serial_folders(instance: Path) -> list[Path]:
    """The replicas' folders of one instance, oldest first."""
    if not instance.is_dir():
        return []
    found = [entry for entry in instance.iterdir() if re.match(r"^(0|[1-9][0-9]{0,15})$", entry.name)]
    return sorted(
        (entry for entry in found if entry.is_dir() and not entry.is_symlink()), key=lambda one: int(one.name)
    )


def log_paths(folder: Path) -> tuple[Path, ...]:
    """``log.2``, ``log.1``, ``log`` as far as they exist: oldest part first."""
    rotated = [entry for entry in folder.glob("log.*") if entry.suffix[1:].isdigit()]
    rotated.sort(key=lambda one: -int(one.suffix[1:]))
    current = folder / "log"
    return (*rotated, current) if current.exists() else tuple(rotated)


def log_file(folder: Path, *, live: bool, started_at: float | None) -> LogFile | None:
    """One replica's output; None when there is none. An unknown start is taken from the folder's date."""
    try:
        paths = log_paths(folder)
        if not paths:
            return None
        if started_at is None:
            value = read_json(folder / ENDED) or {}
            noted = value.get("started_at")
            started_at = float(noted) if isinstance(noted, int | float) else folder.stat().st_mtime
        return LogFile(serial=int(folder.name), paths=paths, live=live, started_at=started_at)
    except OSError:
        return None


def retire(folder: Path) -> None:
    """Turn an ended replica into mere logs, and drop the oldest of its instance beyond ``KEPT_ENDED``."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder / EXIT, folder / ENDED)
    for name in (STATE, CONTROL, LOCK, STATE + ".tmp", EXIT + ".tmp"):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    ended = [one for one in serial_folders(folder.parent) if not (one / STATE).exists() and not (one / LOCK).exists()]
    for old in ended[:-KEPT_ENDED]:
        shutil.rmtree(old, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder in which nothing was started."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # only when it was the first
