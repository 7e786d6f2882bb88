"""One word of a pasted command with its place, and how a command is refused at one. Data; nothing is split here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from reconciler.core.errors import Problem, Rejected

CODE = "COMMAND_INVALID"


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quoting is undone."""

    text: str
    line: int
    """1-based, where it starts."""
    column: int
    """1-based, in characters."""
    fresh_line: bool = False
    """A line break that no backslash joins stands before it."""
    assignment: bool = False
    """Begins with an unquoted ``NAME=``."""
    spent: bool = False
    """An assignment whose value was put in where a later word names the variable."""

    @property
    def place(self) -> str:
        """``line:column``."""
        return f"{self.line}:{self.column}"


def plain_words(argv: tuple[str, ...]) -> tuple[Word, ...]:
    """Words for an argv that no shell has to split; the column counts words."""
    return tuple(Word(text, 1, at + 1) for at, text in enumerate(argv))


def refuse(word: Word, message: str, hint: str | None = None, *, code: str = CODE) -> NoReturn:
    """Raise Rejected at a word."""
    raise Rejected(Problem(message=message, hint=hint, code=code, line=word.line, column=word.column))


def lines_of(command: str) -> str:
    """The command with every line break as one character, as positions count them."""
    return command.replace("\r\n", "\n").replace("\r", "\n")
