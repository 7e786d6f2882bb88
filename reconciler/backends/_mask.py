"""A pasted command with what may be a secret starred out, and what is said about the command without any of it.

A word is shown only where it is known to be harmless: a program, a known flag, a shell's sign, an ordinary word as a known flag's value.
Secrets are told by where they stand, so this reads words on its own: the text may be anything but the command it was meant to be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from reconciler.backends._hide import flag_named, looks_secret, ordinary, secret_flag
from reconciler.backends._outer import CONTAINERS, DROPPED, ENV, ENV_CURES, REFUSED, WRAPPERS
from reconciler.backends._shell import DASHES, PROMPT, QUOTES
from reconciler.backends._tokens import LONGEST_COMMAND, lines_of
from reconciler.core.contracts import ParsedCommand
from reconciler.core.errors import Problem, Rejected
from reconciler.core.secrets import is_secret_name

_LONGEST_SHOWN = 16 * 1024
"""Characters of a command of which a line is shown at all: masking costs 1 µs for each."""
_LONGEST_SOURCE = 400
"""Characters of a line that a problem carries."""
_LONGEST_VALUE = 200
"""Characters of a value that is shown; paths of models are shorter."""
_TOKEN = re.compile(
    r"""
      (?P<blank> (?: \s | \\[ \t]*(?=\n|\Z) | \\(?=[ \t]) )+ )
    | (?P<comment> \#[^\n]* )
    | (?P<sign> \$\( | [&|;<>()`]+ )
    | (?P<word> (?: '[^']*'? | "(?:[^"\\]|\\.)*"? | \\[^\s] | \$(?!\() | [^\s'"\\&|;<>()`$] | \\ )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_ASSIGNED = re.compile(r"""["']?(?P<name>[A-Za-z_]\w*)=["']?""", re.ASCII)
_REFERENCE = re.compile(r"""["']?\$(?:\{\w+\}|\w+)["']?""", re.ASCII)
_INNER_DOLLAR = re.compile(r"[^\s/:=,{}\"'$]\$")
"""A dollar sign that hardly is a variable's: paths and lists have theirs behind a sign."""
_NUMBER = re.compile(r"-?[0-9]{1,7}(?:\.[0-9]{1,6})?")
_DASHED = re.compile(f"[-{DASHES}]+")
_MENTIONS = re.compile(r"(?i)token|api[_-]?key|secret|passw|bearer|credential")
_WORDS = re.compile(r"\w+")
_COMMON = re.compile(r"[a-z]{1,10}|[0-9]{1,4}|Bearer|Basic|Authorization")
"""What a secret may hold and a message may say of its own accord."""
_QUOTED = re.compile(r"""(?<![\w'])'(?:[^'\\]|\\.)*'(?!\w)|(?<!\w)"(?:[^"\\]|\\.)*"(?!\w)""")
_READ_LATER = " is read from llamactl's own environment"
_PLACED = re.compile(r"(\d+):(\d+): ")
_SIGNS = frozenset("$`'\"&|;<>()^~\\*?{}#" + QUOTES + DASHES)
_STARS = "***"
_KEPT = frozenset({"export", "run", "exec", "container", "compose"})
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*t?")


class Takes(Enum):
    """What follows a flag."""

    UNKNOWN = "unknown"
    SECRET = "secret"
    SWITCH = "switch"
    VALUE = "value"
    VALUES = "values"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What may be shown of a command, as whoever reads it knows."""

    takes: Callable[[str], Takes] = lambda _: Takes.UNKNOWN
    """By flag, without a value."""
    program: Callable[[str], bool] = lambda _: False
    """Whether a word names the server."""
    subcommand: frozenset[str] = frozenset()
    """Words that may follow it."""


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    hidden: bool
    secret: bool = False
    """Surely one, not merely a word that nobody can tell."""


def with_source(rejected: Rejected, command: str, known: Known) -> Rejected:
    """The refusal with the line that it is about, for display; what may be a secret is in no part of it, columns unchanged."""
    said = _Said(command, known)
    return Rejected(*(said.problem(problem) for problem in rejected.problems))


def without_secrets(parsed: ParsedCommand, command: str, known: Known) -> ParsedCommand:
    """The same with warnings and a name that hold nothing that may be a secret."""
    said = _Said(command, known)
    cleaned = tuple(text for warning in parsed.warnings if (text := said.warning(warning)) is not None)
    name = parsed.name if said.clean(parsed.name) == parsed.name else parsed.backend_type
    return replace(parsed, warnings=cleaned, name=name)


class _Said:
    """What is said about one command."""

    def __init__(self, command: str, known: Known) -> None:
        self.text = lines_of(command)
        # of a longer text nothing is said but that it is too long
        self.spans = list(_Scan(self.text, known).run()) if len(command) <= LONGEST_COMMAND else []
        hidden = [self.text[span.start : span.end] for span in self.spans if span.hidden]
        visible = {piece for span in self.spans if not span.hidden for piece in self._pieces(span)}
        self.whole = {text.strip("'\"") for text in hidden}
        self.pieces = {piece for text in hidden for piece in _WORDS.findall(text)}
        self.pieces -= {piece for piece in visible if ordinary(piece)}
        sure = {piece for span in self.spans if span.secret for piece in self._pieces(span)}
        self.sure = {piece for piece in sure if not _COMMON.fullmatch(piece) and not is_secret_name(piece)}

    def _pieces(self, span: _Span) -> list[str]:
        return _WORDS.findall(self.text[span.start : span.end])

    def problem(self, problem: Problem) -> Problem:
        hint = problem.hint and self.clean(problem.hint)
        said = replace(problem, message=self.clean(problem.message), hint=hint)
        if problem.line is None or len(self.text) > _LONGEST_SHOWN:
            return said
        masked = list(self.text)
        for span in self.spans:
            if span.hidden:
                masked[span.start : span.end] = [
                    "\n" if char == "\n" else "*" for char in masked[span.start : span.end]
                ]
        at = self._offset(problem.line, problem.column or 1)
        if at is not None and at < len(self.text) and self.text[at] in _SIGNS:
            masked[at] = self.text[at]  # it is what the problem is about
        lines = "".join(masked).split("\n")
        if problem.line > len(lines):
            return said
        return replace(said, source=lines[problem.line - 1][:_LONGEST_SOURCE] or None)

    def _offset(self, line: int, column: int) -> int | None:
        at = 0
        for _ in range(line - 1):
            at = self.text.find("\n", at) + 1
            if at == 0:
                return None
        return at + column - 1

    def warning(self, warning: str) -> str | None:
        """The warning; None for one about a variable that is but a part of a secret."""
        placed = _PLACED.match(warning)
        if placed is not None and _READ_LATER in warning:
            at = self._offset(int(placed[1]), int(placed[2]))
            within = next((span for span in self.spans if at is not None and span.start <= at < span.end), None)
            if within is not None and at is not None and within.hidden:
                if within.secret:
                    return None
                if self.text[at - 1 : at].isalnum() and at > within.start:
                    return f"{placed[0]}a variable{warning[warning.index(_READ_LATER) :]}"
        return self.clean(warning)

    def clean(self, text: str) -> str:
        """A message without any hidden word. Ordinary ones go only where they are quoted: else the message's own are lost."""
        if not self.whole:
            return text
        return _WORDS.sub(self._bare, _QUOTED.sub(self._quoted, text))

    def _quoted(self, found: re.Match[str]) -> str:
        inner = found[0][1:-1]
        hit = inner in self.whole or any(self._cut(piece) for piece in _WORDS.findall(inner))
        return f"{found[0][0]}{_STARS}{found[0][0]}" if hit else found[0]

    def _bare(self, found: re.Match[str]) -> str:
        piece = found[0]
        return _STARS if piece in self.sure or (not ordinary(piece) and self._cut(piece)) else piece

    def _cut(self, piece: str) -> bool:
        """Whether a piece is one of a hidden word, or the longer part of one that a message cut short."""
        return (
            piece in self.pieces
            or piece in self.sure
            or (len(piece) > 40 and any(one.startswith(piece) for one in self.pieces if len(one) > 40))
        )


@dataclass(slots=True)
class _Scan:
    """One pass over the text."""

    text: str
    known: Known
    serving: bool = False
    """The server's own arguments."""
    strange: bool = False
    """Behind a program whose arguments nobody knows."""
    container: bool = False
    begun: bool = False
    """A word that is no assignment stood in this command."""
    model: bool = False
    """A word that belongs to no flag stood in it."""
    seen: bool = False
    """A secret was given: a word that belongs to nothing may be the rest of it."""
    confused: bool = False
    """A secret is expected at a place where it is not: no word is trusted any more but a known flag's value."""
    due: int = 0
    hiding: bool = False
    """Until the next flag."""
    next_one: bool = False
    """The next word, whatever it looks like."""
    spans: list[_Span] = field(default_factory=list)

    def run(self) -> list[_Span]:
        prompt = PROMPT.match(self.text)
        for found in _TOKEN.finditer(self.text, 0 if prompt is None else prompt.end()):
            match found.lastgroup:
                case "blank":
                    if "\n" in found[0] and "\\" not in found[0] and (self.strange or not self.serving):
                        self.strange = self.begun = False
                case "comment":
                    self._hide(found.start(), found.end())
                case "sign":
                    self._sign(found.start(), found.end())
                case _:
                    self._word(found[0], found.start())
        return self.spans

    def _sign(self, start: int, end: int) -> None:
        """What stands behind a shell's sign is another command, or the rest of a word that wanted quotes."""
        self.serving = self.strange = self.begun = self.model = False
        around = self.text[start - 1 : start] + self.text[end : end + 1]
        self.confused = self.confused or self.seen or (len(around) == 2 and " " not in around and "\n" not in around)
        self.due = 0

    def _hide(self, start: int, end: int, *, secret: bool = False) -> None:
        if end > start:
            self.spans.append(_Span(start, end, hidden=True, secret=secret))

    def _show(self, start: int, end: int) -> None:
        self.spans.append(_Span(start, end, hidden=False))

    def _word(self, word: str, at: int) -> None:
        end = at + len(word)
        bare = re.sub(r"['\"]|\\(?=.)", "", word)
        if self.next_one:
            self.next_one = False
            self.hiding = True
            self.confused = self.confused or not bare or bare[0] in "-[{="
            if _REFERENCE.fullmatch(word):
                self._show(at, end)
            else:
                self._hide(at, end, secret=True)
            return
        assigned = None if self.serving else _ASSIGNED.match(word)
        dashes = _DASHED.match(bare)
        if assigned is not None:
            self._assignment(word, at, assigned)
        elif dashes is not None and len(bare) > dashes.end() and not _NUMBER.fullmatch(bare):
            self._flag(word, at, ("-" if bare[0] == "-" and dashes.end() == 1 else "--") + bare[dashes.end() :])
        elif _REFERENCE.fullmatch(word) or (dashes is not None and len(bare) == dashes.end()):
            self.due = max(0, self.due - 1)
            self._show(at, end)
        elif self._harmless(bare, word):
            self._show(at, end)
        else:
            self._hide(at, end, secret=looks_secret(bare))

    def _assignment(self, word: str, at: int, assigned: re.Match[str]) -> None:
        name, value = assigned["name"], word[assigned.end() :].strip("'\"")
        secret = is_secret_name(name)
        self.seen = self.seen or secret
        self.confused = self.confused or not value
        shown = at + assigned.end("name") + 1 if ordinary(name) else at
        self._show(at, shown)
        if not _REFERENCE.fullmatch(value):
            self._hide(shown, at + len(word), secret=secret or looks_secret(value))

    def _flag(self, word: str, at: int, bare: str) -> None:
        end = at + len(word)
        name, equals, value = bare.partition("=")
        takes = self.known.takes(name)
        if takes is Takes.UNKNOWN and not self.serving and (name in ENV_CURES or name in ("-m", "--module")):
            takes = Takes.SWITCH if name in ENV_CURES else Takes.VALUE
        secret = takes is Takes.SECRET or (takes is Takes.UNKNOWN and (secret_flag(name) or _mentions(name)))
        values = at + word.index("=") + 1 if equals else end
        said = takes is not Takes.UNKNOWN or flag_named(name) == name
        self.due, self.hiding = 0, False
        if secret:
            self.seen = self.next_one = True
            self.confused = self.confused or not said or (bool(equals) and (not value or value[0] in "[{"))
            self.next_one = not equals and said and (takes is Takes.SECRET or secret_flag(name))
            self.hiding = True
        elif takes is Takes.UNKNOWN:
            self.hiding = not equals or not value
        elif not equals:
            self.due = {Takes.VALUE: 1, Takes.VALUES: 1 << 20}.get(takes, 0)
        if not said:
            self._hide(at, end, secret=secret)
            return
        self._show(at, values)
        if equals and not _REFERENCE.fullmatch(value):
            open_value = not secret and takes is not Takes.UNKNOWN and _plain(value)
            if open_value:
                self._show(values, end)
            else:
                self._hide(values, end, secret=secret or looks_secret(value))

    def _harmless(self, bare: str, word: str) -> bool:
        """Whether a word that is no flag may be shown."""
        if self.due > 0:
            self.due -= 1
            return _plain(bare)
        if self.serving:
            return self._of_server(bare)
        base = re.split(r"[/\\]", bare)[-1]
        begins, self.begun = not self.begun, True
        if self.known.program(bare):
            self.serving, self.strange, self.hiding = True, False, False
            return True
        if base in REFUSED or base in ENV | DROPPED.keys() | WRAPPERS | CONTAINERS | _KEPT or _PYTHON.fullmatch(base):
            self.strange = self.strange or base in REFUSED
            self.container = self.container or base in CONTAINERS
            self.begun = base not in ENV | DROPPED.keys() | {"export"}
            self.hiding = False
            return _plain(bare)
        if _mentions(bare):
            self.seen = self.confused = True
            return is_secret_name(bare) and bare.isupper()
        doubted = self.hiding or self.strange or self.seen or self.confused
        trusted = not doubted and _plain(bare) and "=" not in bare
        if begins and "/" not in bare:
            self.strange = True
        elif not self.container and begins:
            self.serving = self.model = True  # arguments alone, the model first
        return trusted

    def _of_server(self, bare: str) -> bool:
        if bare in self.known.subcommand and not self.model:
            return True
        if self.hiding or self.confused or not _plain(bare):
            return False
        if not self.model:
            self.model = True
            return True
        return not self.seen


def _mentions(text: str) -> bool:
    return _MENTIONS.search(text) is not None and re.search(r"(?i)tokeniz|tokens", text) is None


def _plain(text: str) -> bool:
    """Whether a value is one of those that a message may repeat where no secret is due."""
    if _INNER_DOLLAR.search(text):
        return False
    return len(text) <= _LONGEST_VALUE and ordinary(text) and not looks_secret(text)
