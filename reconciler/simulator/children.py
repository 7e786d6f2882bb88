"""Child processes that are hard to get rid of, as the workers of real servers can be.

By turns a plain child, one in a session of its own, and one double-forked into a session of its own. They are made
before any thread or event loop exists, so plain forks are safe. Nothing here ever ends a child: that is the point.
"""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias, get_args

ChildKind: TypeAlias = Literal["plain", "session", "double_forked"]

PARENT_VARIABLE = "LLAMACTL_SIM_PARENT"
"""Set to the simulator's pid in the environment of each child, so that a test can find them all."""

LIFETIME_S = 86_400
"""A forgotten child ends by itself after a day; nothing that supervises can wait so long, and no machine fills up."""


@dataclass(frozen=True, slots=True)
class Child:
    """One child and how it was made."""

    pid: int
    kind: ChildKind


class ChildFailed(Exception):
    """A child could not be started."""


def spawn_children(count: int) -> tuple[Child, ...]:
    """Starts `count` children and returns when each runs its own program, ignores SIGTERM and is where it belongs.

    The program is `sleep` (0.5 MB): an ignored signal stays ignored over exec. They inherit stdout and stderr, as a
    server's workers do. Raises `ChildFailed` when one cannot be started.
    """
    kinds: tuple[ChildKind, ...] = get_args(ChildKind)
    program = shutil.which("sleep")
    if count and program is None:
        raise ChildFailed("cannot start children: there is no `sleep` on the PATH")
    return tuple(_spawn(program or "", kinds[number % len(kinds)]) for number in range(count))


def _spawn(program: str, kind: ChildKind) -> Child:
    """Forks one child; a pipe that closes on exec carries its pid, and an error number if it comes to that."""
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(program, kind, environment, writing)
    os.close(writing)
    report = b""
    while part := os.read(reading, 64):
        report += part
    os.close(reading)
    if kind == "double_forked":
        os.waitpid(pid, 0)  # once the middle process is gone the child has its new parent
    child, _, failure = report.decode("ascii").partition("\n")
    if failure:
        raise ChildFailed(f"cannot start a child: {os.strerror(int(failure))}")
    return Child(pid=int(child), kind=kind)


def _become(program: str, kind: ChildKind, environment: dict[str, str], writing: int) -> NoReturn:
    """The child's side of the fork; never returns into the simulator."""
    try:
        if kind != "plain":
            os.setsid()
        if kind == "double_forked" and os.fork() != 0:
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writing, f"{os.getpid()}\n".encode("ascii"))
        silence = os.open(os.devnull, os.O_RDONLY)
        os.dup2(silence, 0)
        os.execve(program, ["sleep", str(LIFETIME_S)], environment)
    except OSError as error:
        os.write(writing, str(error.errno or 0).encode("ascii"))
    finally:
        os._exit(127)
