"""A pasted command line as words with positions, split as a POSIX shell splits and without doing anything a shell would do.

What would make a shell act (pipes, redirections, command substitution, a second command) is refused with its place. Variables
stay variables: the words are texts of the configuration file, where ``${NAME}`` is expanded later and ``$${`` is a literal ``${``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from reconciler.backends import _shell
from reconciler.backends._variables import Variables
from reconciler.backends._word import CODE, Word, lines_of, plain_words, refuse

__all__ = ["CODE", "LONGEST_COMMAND", "MOST_WORDS", "Word", "lines_of", "plain_words", "refuse", "split"]

LONGEST_COMMAND = 128 * 1024
"""Characters; Linux itself refuses a single argument beyond this (MAX_ARG_STRLEN, 32 pages of 4 KiB)."""
MOST_WORDS = 8192

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_BRACED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^${}`\\\"'\n]*))?\}")
_BLANKS = re.compile(r"[ \t]+")
_LINE_END = re.compile(r"[ \t]*(?:\n|\Z)")
_AFTER_BACKSLASH = re.compile(r"[ \t]+(?=\n|#|\Z)")
_PLAIN = re.compile(r"[\w./:,@%+\-\[\]]+")
"""Characters that mean themselves wherever they stand."""
_IN_DOUBLE = re.compile(r'[^"$`\\]+')
_BRACES = re.compile(r"\{[^{}\s'\"\\$`]*(?:,|\.\.)[^{}\s'\"\\$`]*\}")
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
"""Characters that neither a command line nor a configuration file may hold."""


def split(
    command: str, hides: Callable[[str, str], bool] = lambda name, value: False
) -> tuple[tuple[Word, ...], tuple[str, ...]]:
    """The words of one command, and warnings; raises Rejected with line and column.

    A variable that an earlier line sets is replaced by its value, as a shell does, unless ``hides`` says of its name and value
    that it is a secret.
    """
    if len(command) > LONGEST_COMMAND:
        refuse(
            Word("", 1, 1),
            f"cannot read the command: {len(command)} characters are more than {LONGEST_COMMAND}",
            "paste one command",
        )
    return _Splitter(lines_of(command), hides).run()


class _Splitter:
    """One pass over the text; ``at`` is the place of the next character."""

    def __init__(self, text: str, hides: Callable[[str, str], bool]) -> None:
        self.text = text
        self.variables = Variables(hides)
        self.at = 0
        self.line = 1
        self.line_start = 0
        self.words: list[Word] = []
        self.warnings: dict[str, str] = {}
        """By message, so that each is given once, with its place before it."""
        self.parts: list[str] = []
        self.literal: list[str] = []
        """What was collected behind the last variable and means itself."""
        self.start: int | None = None
        self.mark = (1, 1)
        self.fresh = False

    def run(self) -> tuple[tuple[Word, ...], tuple[str, ...]]:
        self._prompt()
        while self.at < len(self.text):
            self._step(self.text[self.at])
        self._finish()
        spent = self.variables.spent
        words = (replace(word, spent=True) if at in spent else word for at, word in enumerate(self.words))
        return tuple(words), tuple(self.warnings.values())

    def _prompt(self) -> None:
        """Skip what a terminal printed before the command."""
        if self.text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):  # a byte order mark
            self.at = 1
        found = _shell.PROMPT.match(self.text, self.at)
        if found is None:
            return
        begins = found.start("prompt")
        for place in range(self.at, begins):
            if self.text[place] == "\n":
                self._newline(place)
        self._warn(begins, "the terminal's prompt was left out")
        self.at = found.end()

    def _step(self, char: str) -> None:
        plain = _PLAIN.match(self.text, self.at)
        if plain is not None:
            self._take(plain[0], plain.end())
            return
        match char:
            case "\n":
                self._finish()
                self._newline(self.at)
                self.at += 1
                self.fresh = bool(self.words)
            case " " | "\t":
                self._finish()
                blanks = _BLANKS.match(self.text, self.at)
                self.at = blanks.end() if blanks is not None else self.at + 1
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
                self._backquote(quoted=False)
            case "&" | "|" | ">" | "<" | ";" | "(" | ")":
                self._operator()
            case _:
                self._ordinary(char)

    def _ordinary(self, char: str) -> None:
        if char in _shell.QUOTES:
            self._fail(self.at, f"{char} is a typographic quote, not one that a shell knows", "use ' or \"")
        if self.start is None and char in _shell.DASHES:
            self._fail(self.at, f"{char} is a long dash, not a minus sign", "write --")
        if not char.isprintable():
            self._unprintable(char)
        if char == "^" and _LINE_END.match(self.text, self.at + 1):
            self._fail(
                self.at,
                "^ at the end of a line is cmd's way to go on",
                "end the line with a backslash, or join the lines",
            )
        if char == "~" and self._at_home():
            self._home()
            return
        if char in "*?":
            self._warn(self.at, f"{char} is kept as it is; a shell might have put file names in its place")
        elif char == "{" and _BRACES.match(self.text, self.at):
            self._warn(self.at, "{ } is kept as it is; some shells would have made several words of it")
        self._take(char, self.at + 1)

    def _unprintable(self, char: str) -> NoReturn:
        if char.isspace() or unicodedata.category(char) in ("Zs", "Cf"):
            self._fail(self.at, f"U+{ord(char):04X} is a blank that a shell does not split at", "use a plain space")
        self._fail(self.at, f"U+{ord(char):04X} is a control character", "remove it")

    def _at_home(self) -> bool:
        """Whether a shell would put a home folder in the place of the ~ here: at a word's start, or in an assignment."""
        if self.start is None:
            return True
        return self.text[self.at - 1] in "=:" and _ASSIGNMENT.match(self.text, self.start, self.at) is not None

    def _home(self) -> None:
        follower = self.text[self.at + 1 : self.at + 2]
        if follower in ("/", ":") or not follower.strip():
            if self._known("HOME", self.at + 1, default="", quoted=True):
                return
            self._warn(self.at, "~ became ${HOME}, the home folder of the user that llamactl runs as")
            self._variable("${HOME}", self.at + 1)
        else:
            self._warn(self.at, "~ is kept as it is; a shell might have put a user's home folder in its place")
            self._take("~", self.at + 1)

    def _backslash(self) -> None:
        follower = self.text[self.at + 1 : self.at + 2]
        if follower == "":  # cut off behind a line that was to go on
            self.at += 1
            return
        if follower == "\n":
            self._newline(self.at + 1)
            self.at += 2
            return
        blanks = _AFTER_BACKSLASH.match(self.text, self.at + 1)
        if blanks is not None:
            if blanks.end() == len(self.text):
                self.at = blanks.end()
                return
            self._fail(
                self.at, "something follows the backslash, so the line does not go on", "let the backslash end the line"
            )
        self._fit(self.at + 1, self.at + 2)
        self._take(follower, self.at + 2)

    def _single(self) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            self._fail(
                self.at, "a single quote is opened here and never closed", "close it, or put it in double quotes"
            )
        self._open(self.at)
        self._quoted(self.at + 1, end)
        self.at = end + 1

    def _quoted(self, start: int, end: int) -> None:
        """Take a stretch that means itself, line breaks included."""
        self._fit(start, end)
        stretch = self.text[start:end]
        self.literal.append(stretch)
        breaks = stretch.count("\n")
        if breaks:
            self.line += breaks
            self.line_start = start + stretch.rfind("\n") + 1

    def _double(self) -> None:
        where = self._position(self.at)
        self._open(self.at)
        self.at += 1
        while self.at < len(self.text):
            stretch = _IN_DOUBLE.match(self.text, self.at)
            if stretch is not None:
                self._quoted(self.at, stretch.end())
                self.at = stretch.end()
                continue
            match self.text[self.at]:
                case '"':
                    self.at += 1
                    return
                case "$":
                    self._dollar(quoted=True)
                case "`":
                    self._backquote(quoted=True)
                case _:
                    self._escaped_in_double()
        refuse(
            Word("", *where), "a double quote is opened here and never closed", "close it, or put it in single quotes"
        )

    def _escaped_in_double(self) -> None:
        follower = self.text[self.at + 1 : self.at + 2]
        if follower == "\n":
            self._newline(self.at + 1)
        elif follower and follower in '$`"\\':
            self.literal.append(follower)
        else:
            self.literal.append("\\")
            self.at += 1
            return
        self.at += 2

    def _backquote(self, *, quoted: bool) -> NoReturn:
        if not quoted and _LINE_END.match(self.text, self.at + 1):
            hint = "end the line with a backslash, or join the lines"
            self._fail(self.at, "a backquote at the end of a line is PowerShell's way to go on", hint)
        self._fail(self.at, "a backquote would run another command", "write the value itself")

    def _dollar(self, *, quoted: bool) -> None:
        rest = self.text[self.at + 1 : self.at + 2]
        braced = _BRACED.match(self.text, self.at)
        name = _NAME.match(self.text, self.at + 1)
        if rest == "(":
            self._fail(self.at, "$( would run another command", "write the value itself")
        if rest in ("'", '"') and not quoted:
            self._fail(self.at, f"${rest} is a special quote of some shells", "use plain quotes")
        if braced is None and name is None:
            if rest and rest in "{?$!*@#-0123456789[":
                self._fail(self.at, "cannot work this shell expression out", "write the value itself")
            self._take("$", self.at + 1)
            return
        if self.literal and self.literal[-1].endswith("$"):
            hint = "write the value itself"
            self._fail(self.at, "a dollar sign directly before a variable cannot be written in the file", hint)
        variable = braced[1] if braced is not None else name[0] if name is not None else ""
        end = braced.end() if braced is not None else self.at + 1 + len(variable)
        if self._known(variable, end, default=braced[3] or "" if braced is not None else "", quoted=quoted):
            return
        own = f"{variable} is read from llamactl's own environment when the file is loaded"
        later = " (a shell sets what stands on this line only after it has put the value in)"
        self._warn(self.at, own + later if variable in self.variables.pending else own)
        if braced is not None:
            self._variable(braced[0], braced.end())
        else:
            self._variable("${" + variable + "}", self.at + 1 + len(variable))

    def _known(self, name: str, end: int, *, default: str, quoted: bool) -> bool:
        """Put in the value of a variable that an earlier line (or an assignment right before) sets."""
        inside = self.start is not None and _ASSIGNMENT.match(self.text, self.start, self.at) is not None
        value = self.variables.value(name, fresh=self.fresh, assigning=inside)
        if value is None:
            return False
        value = value or default.replace("${", "$${")
        if self.variables.taken > LONGEST_COMMAND:
            self._fail(self.at, "the variables of this command grow without measure", "write the values themselves")
        if quoted or inside:
            self._variable(value, end)
            return True
        self.at, begins = end, self.at
        pieces = value.split()
        if value[:1].isspace():
            self._finish()
        for number, piece in enumerate(pieces):
            if number:
                self._finish()
            self._open(begins)
            self._end_literal()
            self.parts.append(piece)
        if value[-1:].isspace():
            self._finish()
        return True

    def _operator(self) -> NoReturn:
        operator = next(sign for sign in _shell.OPERATORS if self.text.startswith(sign, self.at))
        at = self.at
        inside = self.start is not None and self.start < at
        if operator[0] in "<>" and self.start is not None and re.fullmatch("[0-9]+", self.text[self.start : at]):
            operator = self.text[self.start : at] + operator  # 2> is one sign
            at, inside = self.start, False
        self._fail(at, f"{operator} is the shell's, and no shell is involved", _shell.cure(operator, inside=inside))

    # -- words ------------------------------------------------------------------------------------------------------

    def _open(self, at: int) -> None:
        if self.start is None:
            self.start = at
            self.mark = self._position(at)

    def _take(self, text: str, end: int) -> None:
        """Characters that mean themselves, up to ``end``."""
        self._open(self.at)
        self.literal.append(text)
        self.at = end

    def _variable(self, text: str, end: int) -> None:
        """A variable, as the file writes one."""
        self._open(self.at)
        self._end_literal()
        self.parts.append(text)
        self.at = end

    def _end_literal(self) -> None:
        """A literal ``${`` is escaped as the file wants it."""
        self.parts.append("".join(self.literal).replace("${", "$${"))
        self.literal = []

    def _fit(self, start: int, end: int) -> None:
        found = _UNFIT.search(self.text, start, end)
        if found is not None:
            self._fail_behind_breaks(found.start(), f"U+{ord(found[0]):04X} is a control character", "remove it")

    def _finish(self) -> None:
        if self.start is None:
            return
        self._end_literal()
        assigns = _ASSIGNMENT.match(self.text, self.start, self.at) is not None
        self.words.append(Word("".join(self.parts), *self.mark, fresh_line=self.fresh, assignment=assigns))
        self.variables.add(self.words[-1])
        if len(self.words) > MOST_WORDS:
            self._fail(self.start, f"more than {MOST_WORDS} words", "paste one command")
        self.parts, self.start, self.fresh = [], None, False

    # -- places -----------------------------------------------------------------------------------------------------

    def _newline(self, at: int) -> None:
        self.line += 1
        self.line_start = at + 1

    def _position(self, at: int) -> tuple[int, int]:
        return self.line, at - self.line_start + 1

    def _warn(self, at: int, message: str) -> None:
        if message not in self.warnings:
            line, column = self._position(at)
            self.warnings[message] = f"{line}:{column}: {message}"

    def _fail(self, at: int, message: str, hint: str) -> NoReturn:
        refuse(Word("", *self._position(at)), message, hint)

    def _fail_behind_breaks(self, at: int, message: str, hint: str) -> NoReturn:
        """As :meth:`_fail`, for a place behind line breaks that are not counted yet."""
        breaks = self.text.count("\n", self.at, at)
        last = self.text.rfind("\n", self.at, at)
        start = self.line_start if last < 0 else last + 1
        refuse(Word("", self.line + breaks, at - start + 1), message, hint)
