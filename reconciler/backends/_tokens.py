"""A pasted command line as words with positions, split as a POSIX shell splits and without doing anything a shell would do.

What would make a shell act (pipes, redirections, command substitution, a second command) is refused with its place. Variables
stay variables: the words are texts of the configuration file, where ``${NAME}`` is expanded later and ``$${`` is a literal ``${``.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NoReturn

from reconciler.core.errors import Problem, Rejected

LONGEST_COMMAND = 128 * 1024
"""Characters; Linux itself refuses a single argument beyond this (MAX_ARG_STRLEN, 32 pages of 4 KiB)."""
MOST_WORDS = 8192
CODE = "COMMAND_INVALID"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_BRACED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^${}`\\\"']*))?\}")
_OPERATOR_HINTS = {
    "&": "paste only the server's own command; llamactl runs it in the background by itself",
    "|": "paste only the server's own command; its output is kept by llamactl (llamactl logs NAME)",
    ">": "leave the redirection out; the output is kept by llamactl (llamactl logs NAME)",
    "<": "leave the redirection out; the server gets no input",
    ";": "paste one command at a time",
    "(": "quote the text if the bracket is meant",
    ")": "quote the text if the bracket is meant",
}
_OPERATORS = (
    "&&",
    "||",
    "&>>",
    "&>",
    ">>",
    "<<<",
    "<<",
    ">&",
    "<&",
    ">|",
    "<>",
    ";;",
    "&",
    "|",
    ">",
    "<",
    ";",
    "(",
    ")",
)
_QUOTES = "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
_DASHES = "\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{HORIZONTAL BAR}"


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quoting is undone."""

    text: str
    line: int
    """1-based, where it starts."""
    column: int
    """1-based, in characters."""
    source: str
    """That whole line."""
    fresh_line: bool = False
    """A line break that no backslash joins stands before it."""
    assignment: bool = False
    """Begins with an unquoted ``NAME=``."""

    @property
    def place(self) -> str:
        """``line:column``."""
        return f"{self.line}:{self.column}"


def plain_words(argv: tuple[str, ...]) -> tuple[Word, ...]:
    """Words for an argv that no shell has to split; the column counts words."""
    return tuple(Word(text, 1, at + 1, "") for at, text in enumerate(argv))


def refuse(word: Word, message: str, hint: str | None = None) -> NoReturn:
    """Raise Rejected at a word."""
    raise Rejected(
        Problem(message=message, hint=hint, code=CODE, line=word.line, column=word.column, source=word.source or None)
    )


def split(command: str) -> tuple[tuple[Word, ...], tuple[str, ...]]:
    """The words of one command, and warnings; raises Rejected with line and column."""
    if len(command) > LONGEST_COMMAND:
        problem = Problem(
            message=f"cannot read the command: {len(command)} characters are more than {LONGEST_COMMAND}",
            hint="paste one command",
            code=CODE,
            line=1,
            column=1,
        )
        raise Rejected(problem)
    return _Splitter(command).run()


class _Splitter:
    """One pass over the text; ``at`` is the place of the next character."""

    def __init__(self, command: str) -> None:
        self.text = command.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
        self.at = 0
        self.line = 1
        self.line_start = 0
        self.words: list[Word] = []
        self.warnings: list[str] = []
        self.part: list[str] = []
        self.start: int | None = None
        self.quoted = False
        self.assigns = False
        self.fresh = False

    def run(self) -> tuple[tuple[Word, ...], tuple[str, ...]]:
        while self.at < len(self.text):
            self._step(self.text[self.at])
        self._finish()
        return tuple(self.words), tuple(self.warnings)

    def _step(self, char: str) -> None:
        match char:
            case "\n":
                self._finish()
                self._newline(self.at)
                self.at += 1
                self.fresh = bool(self.words)
            case " " | "\t":
                self._finish()
                self.at += 1
            case "#" if self.start is None:
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            case "\\":
                self._backslash()
            case "'":
                self._single()
            case '"':
                self._double()
            case "$":
                self._dollar(quoted=False)
            case "`":
                self._fail(self.at, "a backquote would run another command", "write the value itself")
            case "&" | "|" | ">" | "<" | ";" | "(" | ")":
                self._operator()
            case _:
                self._ordinary(char)

    def _ordinary(self, char: str) -> None:
        if char in _QUOTES:
            self._fail(self.at, f"{char} is a typographic quote, not one that a shell knows", "use ' or \"")
        if self.start is None and char in _DASHES:
            self._fail(self.at, f"{char} is a long dash, not a minus sign", "write --")
        if not char.isprintable():
            self._unprintable(char)
        if char == "~" and self.start is None:
            self._home()
            return
        if char in "*?" and (self.start is None or not self.quoted):
            self._warn_glob(char)
        self._open(self.at)
        self._literal(char)
        if char == "=" and not self.quoted and not self.assigns:
            self.assigns = _ASSIGNMENT.fullmatch("".join(self.part)) is not None
        self.at += 1

    def _unprintable(self, char: str) -> NoReturn:
        if char.isspace() or unicodedata.category(char) in ("Zs", "Cf"):
            self._fail(self.at, f"U+{ord(char):04X} is a blank that a shell does not split at", "use a plain space")
        self._fail(self.at, f"U+{ord(char):04X} is a control character", "remove it")

    def _home(self) -> None:
        follower = self.text[self.at + 1 : self.at + 2]
        if follower == "/" or not follower.strip():
            self._add("${HOME}")
            self._warn(self.at, "~ became ${HOME}, the home folder of the user that llamactl runs as")
        else:
            self._add("~")
        self.at += 1

    def _warn_glob(self, char: str) -> None:
        self._warn(self.at, f"{char} is kept as it is; a shell might have put file names in its place")

    def _backslash(self) -> None:
        follower = self.text[self.at + 1 : self.at + 2]
        if follower == "":  # cut off behind a line that was to go on
            self.at += 1
            return
        if follower == "\n":
            self._newline(self.at + 1)
            self.at += 2
            return
        blanks = re.compile(r"[ \t]+(?=\n|#|$)").match(self.text, self.at + 1)
        if blanks is not None:
            if blanks.end() == len(self.text):
                self.at = blanks.end()
                return
            self._fail(
                self.at, "something follows the backslash, so the line does not go on", "let the backslash end the line"
            )
        self._open(self.at)
        self._check_quoted(self.at + 1)
        self._literal(follower)
        self.quoted = True
        self.at += 2

    def _single(self) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            self._fail(
                self.at, "a single quote is opened here and never closed", "close it, or put it in double quotes"
            )
        self._open(self.at)
        self.quoted = True
        for place in range(self.at + 1, end):
            if self.text[place] == "\n":
                self._newline(place)
            self._check_quoted(place)
            self._literal(self.text[place])
        self.at = end + 1

    def _double(self) -> None:
        opened = self.at
        where = self._position(opened)
        self._open(opened)
        self.quoted = True
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if char == "$":
                self._dollar(quoted=True)
                continue
            if char == "`":
                self._fail(self.at, "a backquote would run another command", "write the value itself")
            if char == "\\":
                self._escaped_in_double()
                continue
            if char == "\n":
                self._newline(self.at)
            self._check_quoted(self.at)
            self._literal(char)
            self.at += 1
        self._fail_at(where, "a double quote is opened here and never closed", "close it, or put it in single quotes")

    def _escaped_in_double(self) -> None:
        follower = self.text[self.at + 1 : self.at + 2]
        if follower == "\n":
            self._newline(self.at + 1)
        elif follower and follower in '$`"\\':
            self._literal(follower)
        else:
            self._literal("\\")
            self.at += 1
            return
        self.at += 2

    def _dollar(self, *, quoted: bool) -> None:
        rest = self.text[self.at + 1 : self.at + 2]
        braced = _BRACED.match(self.text, self.at)
        name = _NAME.match(self.text, self.at + 1)
        if rest == "(":
            self._fail(self.at, "$( would run another command", "write the value itself")
        if rest in ("'", '"') and not quoted:
            self._fail(self.at, f"${rest} is a special quote of some shells", "use plain quotes")
        if not self.words and self.start is None and not quoted and rest in (" ", "\t"):
            self.at += 1  # the prompt of a terminal
            return
        if braced is None and name is None:
            if rest and rest in "{?$!*@#-0123456789":
                self._fail(self.at, "cannot work this shell expression out", "write the value itself")
            self._add("$")
            self.at += 1
            return
        variable = braced[1] if braced is not None else name[0] if name is not None else ""
        self._open(self.at)
        self._add(braced[0] if braced is not None else "${" + variable + "}")
        self._warn(self.at, f"{variable} is read from llamactl's own environment when the file is loaded")
        self.at = braced.end() if braced is not None else self.at + 1 + len(variable)

    def _operator(self) -> NoReturn:
        operator = next(sign for sign in _OPERATORS if self.text.startswith(sign, self.at))
        at = self.at
        if operator[0] in "<>" and self.start is not None and not self.quoted and re.fullmatch("[0-9]+", "".join(self.part)):
            at = self.start  # 2> is one sign
            operator = "".join(self.part) + operator
        sign = operator.lstrip("0123456789")[0]
        if operator in ("<<", "<<<"):
            hint = "leave it out; the server gets no input"
        elif operator in ("&&", "||"):
            hint = "paste one command at a time; working_directory and environment of an instance replace cd and export"
        else:
            hint = _OPERATOR_HINTS[sign if not operator.startswith("&>") else ">"]
        self._fail(at, f"{operator} is the shell's, and no shell is involved", hint)

    # -- words ------------------------------------------------------------------------------------------------------

    def _open(self, at: int) -> None:
        if self.start is None:
            self.start = at
            self._mark = self._position(at)

    def _add(self, text: str) -> None:
        self._open(self.at)
        self.part.append(text)

    def _literal(self, char: str) -> None:
        """A character that means itself; a literal ``${`` is escaped as the file wants it."""
        if char == "{" and self.part and self.part[-1] == "$":
            self.part[-1] = "$$"
        self.part.append(char)

    def _check_quoted(self, at: int) -> None:
        char = self.text[at]
        if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t":
            self._fail(at, f"U+{ord(char):04X} is a control character", "remove it")

    def _finish(self) -> None:
        if self.start is None:
            return
        line, column, source = self._mark
        self.words.append(
            Word("".join(self.part), line, column, source, fresh_line=self.fresh, assignment=self.assigns)
        )
        if len(self.words) > MOST_WORDS:
            self._fail(self.start, f"more than {MOST_WORDS} words", "paste one command")
        self.part, self.start, self.quoted, self.assigns, self.fresh = [], None, False, False, False

    # -- places -----------------------------------------------------------------------------------------------------

    def _newline(self, at: int) -> None:
        self.line += 1
        self.line_start = at + 1

    def _position(self, at: int) -> tuple[int, int, str]:
        end = self.text.find("\n", self.line_start)
        source = self.text[self.line_start : len(self.text) if end < 0 else end]
        return self.line, at - self.line_start + 1, source[:400]

    def _warn(self, at: int, message: str) -> None:
        line, column, _ = self._position(at)
        text = f"{line}:{column}: {message}"
        if not any(earlier.endswith(message) for earlier in self.warnings):
            self.warnings.append(text)

    def _fail(self, at: int, message: str, hint: str) -> NoReturn:
        self._fail_at(self._position(at), message, hint)

    def _fail_at(self, where: tuple[int, int, str], message: str, hint: str) -> NoReturn:
        refuse(Word("", *where), message, hint)
