"""How a command ends other than well: the exit codes, and the one exception that carries a code and a message for people."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Exit codes; the numbers from 64 on are those of BSD's sysexits.h, 124 is that of timeout(1)."""

    DONE = 0
    FAILED = 1
    CHANGES = 2
    USAGE = 64
    INVALID = 65
    NO_INPUT = 66
    UNREACHABLE = 69
    REFUSED = 77
    TIMED_OUT = 124
    INTERRUPTED = 130
    """128 + SIGINT, as shells have it."""
    BROKEN_PIPE = 141
    """128 + SIGPIPE: whoever read our output went away, as ``head`` does."""


MEANINGS: tuple[tuple[Code, str], ...] = (
    (Code.DONE, "done"),
    (Code.FAILED, "failed"),
    (Code.CHANGES, "changes are pending (only `plan --detailed-exitcode`)"),
    (Code.USAGE, "the command line cannot be used"),
    (Code.INVALID, "the file is invalid"),
    (Code.NO_INPUT, "a file cannot be read"),
    (Code.UNREACHABLE, "the daemon cannot be reached"),
    (Code.REFUSED, "the key was refused"),
    (Code.TIMED_OUT, "timed out"),
    (Code.INTERRUPTED, "interrupted"),
)
"""What every ``--help`` ends with."""


class Failure(Exception):
    """The command cannot do what was asked. The message is printed as it is, on stderr."""

    def __init__(self, message: str, code: Code = Code.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class KeyRefused(Failure):
    """The daemon was reached and does not take the key."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Code.REFUSED)


class Garbled(Failure):
    """Something answers, but not as a daemon does; asking again does not help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Code.UNREACHABLE)


class Unreachable(Failure):
    """No daemon, or none now: it may come back."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Code.UNREACHABLE)
