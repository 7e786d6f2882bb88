"""Where installed servers live: folders keyed on what went into them, a lock for each, a stamp written last.

Knows nothing of vLLM, llama.cpp or MLX. A folder without a stamp is an interrupted install and counts for nothing.
Standard library only, because the installer runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

COMMAND_DEADLINE_S: Final = 3600.0
"""Longest one installer command may take, seconds; ten times the slowest one measured (a cold llama.cpp build)."""

LOG_TAIL_LINES: Final = 30
"""Lines of a failed command's log that are shown."""

STAMP: Final = "installed.json"


class InstallFailed(Exception):
    """An install step did not work; the text says which, why and what to try, with the end of its log."""


def say(text: str) -> None:
    """One progress line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress on stderr is this program's interface


def default_cache() -> Path:
    """``$LLAMACTL_REAL_CACHE``, else ``~/.cache/llamactl-real``."""
    named = os.environ.get("LLAMACTL_REAL_CACHE")
    return Path(named).expanduser().resolve() if named else Path.home() / ".cache" / "llamactl-real"


def python_tag() -> str:
    """Interpreter and machine a folder was built for, such as ``cp311-linux-x86_64``."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{sys.platform}-{platform.machine()}"


def key_of(parts: Sequence[str]) -> str:
    """A short hash over everything that decides what an install contains."""
    joined = "\0".join((python_tag(), *parts))
    return hashlib.sha256(joined.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Slot:
    """One keyed folder of the cache: ``ROOT/NAME-VERSION-KEY``, with its lock and log beside it."""

    root: Path
    component: str
    version: str
    key: str

    @property
    def folder(self) -> Path:
        """Where the install lives; complete only when ``stamp`` exists."""
        return self.root / f"{self.component}-{self.version}-{self.key}"

    @property
    def stamp(self) -> Path:
        """Written last, by rename, so that its presence means a finished install."""
        return self.folder / STAMP

    @property
    def log(self) -> Path:
        """Output of every command of the latest install; kept outside the folder so that a redo does not lose it."""
        return self.root / "logs" / f"{self.folder.name}.log"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this component against other installers; says so when it has to wait."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{self.component}.lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"[{self.component}] another installer is at work, waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def clear(self) -> None:
        """Remove what an interrupted install left, and start a fresh log."""
        if self.folder.exists():
            say(f"[{self.component}] an earlier install was interrupted, doing it again")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self.log.parent.mkdir(exist_ok=True)
        self.log.write_text("")

    def finish(self, facts: Mapping[str, object]) -> None:
        """Write the stamp: from now on this install is a no-op."""
        text = json.dumps({"component": self.component, "version": self.version, "key": self.key, **facts}, indent=1)
        partial = self.stamp.with_suffix(".partial")
        partial.write_text(text + "\n")
        partial.replace(self.stamp)

    def siblings(self) -> tuple[Path, ...]:
        """Folders of this component under other keys: older pins, other interpreters."""
        return tuple(sorted(p for p in self.root.glob(f"{self.component}-*-*") if p.is_dir() and p != self.folder))


def folder_bytes(folder: Path) -> int:
    """Disk taken by a folder, bytes, by blocks and without following links."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(base, name)).st_blocks * 512
    return total


def clean_environment() -> dict[str, str]:
    """This process's environment without what would leak the caller's Python into a venv; offline for model hubs."""
    unwanted = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}


def _tail(log: TextIO) -> str:
    log.seek(0)
    return "".join(f"    {line}" for line in log.readlines()[-LOG_TAIL_LINES:]).rstrip()


def run_step(slot: Slot, title: str, argv: Sequence[str | Path], *, cwd: Path | None = None) -> float:
    """Run one command with its output in the slot's log; returns seconds.

    Raises InstallFailed with the last lines of the log when the command fails or outlives COMMAND_DEADLINE_S.
    """
    words = [os.fspath(word) for word in argv]
    say(f"[{slot.component}] {title} ...")
    began = time.monotonic()
    with slot.log.open("a+") as log:
        log.write(f"$ {' '.join(words)}\n")
        log.flush()
        mark = log.tell()
        try:
            done = subprocess.run(
                words,
                cwd=cwd,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_DEADLINE_S,
                check=False,
            )
            outcome = None if done.returncode == 0 else f"exit {done.returncode}"
        except subprocess.TimeoutExpired:
            outcome = f"no end after {COMMAND_DEADLINE_S:.0f} s"
        except OSError as error:
            outcome = str(error)
        if outcome is not None:
            log.seek(mark)
            raise InstallFailed(
                f"cannot install {slot.component}: {title}: {outcome}; the end of {slot.log}:\n{_tail(log)}"
            )
    took = time.monotonic() - began
    say(f"[{slot.component}] {title}: {took:.1f} s")
    return took
