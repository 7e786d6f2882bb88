"""The error tree. A type here is an instruction to whoever catches it; a failure nobody could act on differently gets no type.

LlamactlError
├── Rejected    the user's file or request is wrong: keep the last good one, show ``problems``
├── Conflict    the world moved since this was planned: plan again
├── Transient   may work later: back off and try again
├── Terminal    will not work until the declaration changes: stalled
└── Missing     the thing is not there: success when stopping, 404 when asked for
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue


class Severity(StrEnum):
    """Whether a problem stops a file from being used."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with something the user wrote, with its place and its cure."""

    message: str
    """What is wrong, in the user's words, without the place."""
    hint: str | None = None
    """What to write instead, when we know."""
    code: str = "CONFIG_INVALID"
    """Stable name for programs: ``CONFIG_INVALID``, ``CONFIG_EMPTY``, ``CONFIG_TOO_COMPLEX``, ``CONFIG_NOT_READABLE``."""
    severity: Severity = Severity.ERROR
    file: str | None = None
    line: int | None = None
    """1-based."""
    column: int | None = None
    """1-based, in characters."""
    path: str = ""
    """Place in the document, as ``instances.tiny.backend_options.port``; empty for the whole file."""
    source: str | None = None
    """The offending line's text, for the caret display."""
    also: tuple[tuple[str, int, int], ...] = ()
    """Other places that belong to it (the first of two duplicates), as (file, line, column)."""

    def place(self) -> str:
        """``file:line:column`` as far as known."""
        parts = [self.file or "<input>"]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        return ":".join(parts)

    def as_json(self) -> dict[str, JsonValue]:
        """The shape of a problem in every answer and every output."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
            "code": self.code,
            "severity": self.severity.value,
            "source": self.source,
            "also": [list(place) for place in self.also],
        }

    def __str__(self) -> str:
        """One line: place, message, cure."""
        cure = f" ({self.hint})" if self.hint else ""
        return f"{self.place()}: {self.message}{cure}"


class LlamactlError(Exception):
    """Base of every failure that this program names."""


class Rejected(LlamactlError):
    """The user's file or request cannot be used; nothing changed. ``problems`` says what and where."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class Conflict(LlamactlError):
    """What this was based on is no longer so: look again and plan again."""


class Transient(LlamactlError):
    """It failed now and may work later: back off."""


class Terminal(LlamactlError):
    """It cannot work until the declaration changes."""


class Missing(LlamactlError):
    """The named thing does not exist."""
