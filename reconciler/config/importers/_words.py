"""Text of another tool's file in which variables may stand, as words of a command line or a value of our file. Runs and reads nothing.

A :class:`Text` keeps what is literal apart from what is a variable, because every tool escapes dollars in its own way.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SAFE_DEFAULT = re.compile(r"[^${}`\\\"'\n]*")
_OPERATOR = re.compile(r"[&|<>;]+|[()`]")
"""Longest first: what the user wrote is what a message names."""


class Unsayable(ValueError):
    """A text that our file cannot hold, or whose meaning cannot be known here; the message says why, ``cure`` what to do."""

    def __init__(self, message: str, cure: str | None = None) -> None:
        super().__init__(message)
        self.cure = cure


@dataclass(frozen=True, slots=True)
class Ref:
    """A variable that is read when our file is loaded: ``${NAME}`` or ``${NAME:-default}``."""

    name: str
    default: str | None = None

    def __str__(self) -> str:
        return f"${{{self.name}}}" if self.default is None else f"${{{self.name}:-{self.default}}}"


Text = tuple[str | Ref, ...]
"""Literal pieces and variables, in order; empty for the empty text."""


def literal(text: str) -> Text:
    """Text without variables."""
    return (text,) if text else ()


def literals(words: Iterable[str]) -> tuple[Text, ...]:
    """Words without variables."""
    return tuple(literal(word) for word in words)


def joined(*pieces: Text) -> Text:
    """One text after the other, literal neighbours made one."""
    out: list[str | Ref] = []
    for piece in (part for text in pieces for part in text):
        if isinstance(piece, str) and out and isinstance(out[-1], str):
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def bare(text: Text) -> str | None:
    """The text, when no variable stands in it."""
    return "".join(str(piece) for piece in text) if all(isinstance(piece, str) for piece in text) else None


def shown(text: Text) -> str:
    """For people: variables as ``${NAME}``."""
    return "".join(str(piece) for piece in text)


def refs(text: Text) -> tuple[Ref, ...]:
    """The variables in it."""
    return tuple(piece for piece in text if isinstance(piece, Ref))


def _checked(text: Text) -> Text:
    for before, after in pairwise(text):
        if isinstance(before, str) and before.endswith("$") and isinstance(after, Ref):
            raise Unsayable(f"a dollar sign stands before {after}", f"give the whole text to {after.name}")
    for ref in refs(text):
        if ref.default is not None and not _SAFE_DEFAULT.fullmatch(ref.default):
            raise Unsayable(f"the default of {ref.name} holds quotes, braces or dollars", f"set {ref.name} instead")
    return text


def file_text(text: Text) -> str:
    """As a value of our file, where ``$${`` is a literal ``${``; raises Unsayable."""
    return "".join(
        str(piece) if isinstance(piece, Ref) else piece.replace("${", "$${") for piece in _checked(joined(text))
    )


def shell_word(text: Text) -> str:
    """As one word of a command line that is read by the rules of a shell; raises Unsayable."""
    quoted = [f'"{piece}"' if isinstance(piece, Ref) else shlex.quote(piece) for piece in _checked(joined(text))]
    return "".join(quoted) or "''"


def command_line(words: Iterable[Text], environment: Sequence[tuple[str, Text]] = ()) -> str:
    """Assignments and words as a command line; raises Unsayable."""
    assigned = (f"{name}={shell_word(value)}" for name, value in environment)
    return " ".join([*assigned, *map(shell_word, words)])


def split_words(text: Text, *, one_line: bool = False) -> tuple[Text, ...]:
    """The words of a command as a shell splits them, variables whole; Unsayable where a shell would do more than split.

    A line's end is a blank, or with ``one_line`` the end of a command, after which nothing may follow.
    """
    splitter = _Splitter(one_line=one_line)
    for piece in text:
        if isinstance(piece, Ref):
            splitter.add(piece)
        else:
            for at, char in enumerate(piece):
                splitter.step(char, piece[at:])
    return splitter.finish()


class _Splitter:
    """One pass over the characters."""

    def __init__(self, *, one_line: bool) -> None:
        self.one_line = one_line
        self.ended = False
        self.words: list[Text] = []
        self.part: list[str | Ref] | None = None
        self.quote = ""
        self.escaped = False

    def add(self, piece: str | Ref) -> None:
        self.escaped = False
        if self.ended:
            raise Unsayable("a second command follows", "write the server's own command alone")
        self.part = [*(self.part or ()), piece]

    def step(self, char: str, rest: str) -> None:
        """One character; ``rest`` is the text from it on."""
        if self.escaped:
            kept = self.quote == '"' and char not in '$`"\\\n'
            self.escaped = False
            if char != "\n":
                self.add(f"\\{char}" if kept else char)
        elif char == "\\" and self.quote != "'":
            self.escaped = True
        elif self.quote:
            if char == self.quote:
                self.quote = ""
            else:
                self.add(char)
        elif char in "'\"":
            self.quote = char
            self.part = self.part or []
        elif char.isspace():
            self._word()
            self.ended = self.ended or (self.one_line and char == "\n" and bool(self.words))
        elif (operator := _OPERATOR.match(rest)) is not None:
            why = f"{operator[0]} is a shell's, and no shell is involved"
            raise Unsayable(why, "write the server's own command alone")
        else:
            self.add(char)

    def _word(self) -> None:
        if self.part is not None:
            self.words.append(joined(tuple(self.part)))
        self.part = None

    def finish(self) -> tuple[Text, ...]:
        if self.quote:
            raise Unsayable("a quote is opened and never closed", "close it")
        self._word()
        return tuple(self.words)


_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash"})
_SHELL_FLAGS = re.compile(r"-[a-z]*c")


def out_of_shell(words: Sequence[Text]) -> tuple[Text, ...]:
    """``sh -c "exec SERVER …"`` as ``SERVER …``; other words as they are. Unsayable when the shell does more than start one program."""
    names = [bare(word) for word in words[:3]]
    if not names or (names[0] or "").rsplit("/", 1)[-1] not in _SHELLS:
        return tuple(words)
    cure = "write the server's own command there, without the shell"
    if len(words) < 3 or not _SHELL_FLAGS.fullmatch(names[1] or ""):
        raise Unsayable("a shell runs a script, and what it starts is not known here", cure)
    if len(words) > 3:
        raise Unsayable("the shell is given arguments of its own", cure)
    inner = joined(words[2])
    if any(isinstance(piece, str) and "$" in piece for piece in inner):
        raise Unsayable("the shell puts variables in, and they are not known here", cure)
    try:
        found = split_words(inner, one_line=True)
    except Unsayable as problem:
        raise Unsayable(f"a shell does more than start one program: {problem}", cure) from None
    if found and bare(found[0]) == "exec":
        found = found[1:]
    return found
