"""What importers share: the list of what is lost, secrets that become references, and a command handed to the one who understands it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.config.importers._words import Ref, Text, Unsayable, bare, refs, shown
from reconciler.config.importers.contract import Lost
from reconciler.core.errors import Rejected
from reconciler.core.options import NO_SERVER, ParsedCommand
from reconciler.core.secrets import conceal, is_secret_flag, is_secret_name, secrets_in
from reconciler.core.spec import OptionValue

_KEY_SHAPE = re.compile(
    r"(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|nvapi-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|glpat-[\w-]{16,}|eyJ[\w-]{16,}\.[\w.-]+)"
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}"
)
"""Tokens that their issuers mark: Hugging Face, OpenAI and those who followed, NVIDIA, GitHub, GitLab, and JSON web tokens; and any
that is carried as `Bearer`."""
_POSITION = re.compile(r"^\d+:(\d+): ")
_READ_LATER = re.compile(r"(\w+) is read from llamactl's own environment")
ELSEWHERE = "leave it where it is; an OpenAI-compatible one can be declared with backend_type: custom or external"
_AS_GIVEN = " stands in the file as it was given; "
"""Of a warning about a secret that :func:`withheld` takes out."""
_OF_A_VARIABLE = re.compile(r"(?:the value of )?([A-Z_][A-Z0-9_]*) was (?:dropped|left out)\b")
"""What the parser says of a variable that a command is given."""
_HEADER = re.compile(
    r"""
    (?: -{1,2}[\w-]+= )? ["']? (?P<name> (?:proxy-)?authorization | cookie | [\w-]*(?:api-?key|token|secret|auth) ) \s*:\s*
    (?: (?:bearer|basic|token|digest)\s+ )? (?=\S)
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""An HTTP header that carries a secret, up to that."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_TLS = "the server listens on loopback only; put TLS in front of llamactl"
_LISTENING: Mapping[str, tuple[str, str]] = {
    "LLAMA_ARG_PORT": ("dropped: llamactl assigns the port", "set port to pin it"),
    "LLAMA_ARG_HOST": ("dropped: llamactl assigns the address", "set host to pin it"),
    "LLAMA_ARG_REUSE_PORT": ("dropped: llamactl assigns the port", "set port to pin it"),
    "LLAMA_ARG_API_KEY_FILE": (
        "dropped: llamactl gives each server a random key of its own",
        "let clients use llamactl's keys",
    ),
    "LLAMA_ARG_API_PREFIX": ("dropped: llamactl asks the server's routes without a prefix", "leave it out"),
    "LLAMA_ARG_SSL_KEY_FILE": ("dropped: llamactl reaches the server without TLS", _NO_TLS),
    "LLAMA_ARG_SSL_CERT_FILE": ("dropped: llamactl reaches the server without TLS", _NO_TLS),
}
"""Variables by which a server is told how to listen, each as the flag that it stands for (``llama-server --help``)."""


@dataclass(slots=True)
class Ledger:
    """Everything that our file does not say, or says otherwise, in the order in which it was met."""

    lost: list[Lost] = field(default_factory=list)
    _variables: set[str] = field(default_factory=set)
    _references: dict[str, Lost] = field(default_factory=dict)
    """What was said of secrets that became references, by variable."""
    _set: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    _read: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    """Where each variable is given to the server, and where one is first read: the setting and its line."""

    def add(self, what: str, why: str, cure: str | None = None, *, line: int | None = None) -> None:
        """One thing; no secret of the other file may be in these texts (what has the shape of one is starred out)."""
        entry = Lost(what=what, why=conceal(why, stars="***", message=True), cure=cure, line=line)
        if entry not in self.lost:
            self.lost.append(entry)

    def problem(self, what: str, problem: Unsayable, *, line: int | None = None) -> None:
        """A setting whose text our file cannot hold."""
        self.add(what, str(problem), problem.cure, line=line)

    def variable(self, name: str, what: str, why: str, cure: str | None = None, *, line: int | None = None) -> None:
        """Something about one variable: said once, where it first stands."""
        if name not in self._variables:
            self._variables.add(name)
            self.add(what, why, cure, line=line)

    def warnings(
        self,
        what: str,
        parsed: ParsedCommand,
        *,
        line: int | None = None,
        lines: Mapping[int, int] | None = None,
        elsewhere: str = "",
    ) -> None:
        """What the parser of command lines changed; its positions are those of a line that nobody wrote, so they go.

        ``lines`` are lines of the other file by the columns of words, where a word has one of its own. What is said of a variable
        is told of the setting in which that stands. ``elsewhere`` is where the other tool has it from.
        """
        whole = line
        for warning in parsed.warnings:
            position = _POSITION.match(warning)
            line = (lines or {}).get(int(position[1]), whole) if position is not None else whole
            text = _POSITION.sub("", warning)
            later, given = _READ_LATER.match(text), _OF_A_VARIABLE.match(text)
            if later is not None:
                self._read.setdefault(later[1], (what, line))
            elif _AS_GIVEN not in text:
                place, at = self._set.get(given[1], (what, line)) if given is not None else (what, line)
                self.add(place, text, line=at)
        said = str(parsed.instance())
        for name, (place, at) in self._read.items():
            if f"${{{name}}}" in said or f"${{{name}:-" in said:
                why = f"{name} is read from llamactl's own environment when the file is loaded{elsewhere}"
                self.variable(name, place, why, f"set {name} for llamactl", line=at)

    def reads(self, name: str, what: str, *, line: int | None = None) -> None:
        """A variable stands in this setting."""
        self._read.setdefault(name, (what, line))

    def listening(self, name: str, what: str, *, line: int | None = None) -> bool:
        """Whether a variable tells the server how to listen, which is llamactl's to say; told, and so to be left out."""
        self._set[name] = (what, line)
        if name not in _LISTENING:
            return False
        self.add(what, *_LISTENING[name], line=line)
        return True

    def secret(self, name: str, what: str, *, line: int | None = None) -> Ref:
        """The reference that stands for a secret; says where the secret is."""
        why = f"the value is a secret and stays where it is; our file says ${{{name}}}"
        before = len(self.lost)
        self.variable(name, what, why, f"set {name} in llamactl's own environment", line=line)
        if len(self.lost) > before:
            self._references[name] = self.lost[-1]
        return Ref(name)

    def settle(self, body: Mapping[str, OptionValue]) -> None:
        """Forget what was said of references that did not get into the instance: the server's own key is llamactl's to give."""
        for name, entry in self._references.items():
            if f"${{{name}}}" not in str(body) and entry in self.lost:
                self.lost.remove(entry)

    def environment(self, name: str, value: Text, what: str, *, line: int | None = None) -> Text:
        """A variable's value, or the reference to it when it is a secret."""
        text = shown(value)
        hidden = is_secret_name(name) or _KEY_SHAPE.search(text) is not None or any(secrets_in(text))
        if not hidden or not _is_written(value):
            return value
        read = refs(value)[0].name if len(value) == 1 and refs(value) else name  # ${X:-a default that is a secret}
        return (self.secret(read, what, line=line),)


def _is_written(value: Text) -> bool:
    """Whether a part of a value stands in the other file, be it as a default."""
    return any(piece.strip() if isinstance(piece, str) else piece.default for piece in value)


def withheld(value: OptionValue, ledger: Ledger, what: str, *, line: int | None = None, key: str = "") -> OptionValue:
    """The same with its secrets as references: values behind secret flags, under secret names, passwords in URLs, marked tokens."""
    match value:
        case str():
            return _withheld_text(value, ledger, what, line, key)
        case list():
            kept: list[OptionValue] = []
            for at, item in enumerate(value):
                before = value[at - 1] if at else None
                follows = isinstance(before, str) and is_secret_flag(before)
                if follows and isinstance(item, str) and item and not item.startswith("-") and not _is_reference(item):
                    kept.append(str(ledger.secret(_variable(str(before)), what, line=line)))
                else:
                    kept.append(withheld(item, ledger, what, line=line))
            return kept
        case dict():
            return {name: withheld(item, ledger, what, line=line, key=name) for name, item in value.items()}
        case _:
            return value


def _withheld_text(text: str, ledger: Ledger, what: str, line: int | None, key: str) -> str:
    if not text or _is_reference(text):
        return text
    name, equals, value = text.partition("=")
    if equals and is_secret_flag(name) and value and not _is_reference(value):
        return f"{name}={ledger.secret(_variable(name), what, line=line)}"
    if key and is_secret_name(key):
        return str(ledger.secret(_variable(key), what, line=line))
    header = _HEADER.match(text)
    if header is not None and not _is_reference(text[header.end() :]):
        return f"{header[0]}{ledger.secret(_variable(header['name']), what, line=line)}"
    spans = list(secrets_in(text)) + [match.span() for match in _KEY_SHAPE.finditer(text)]
    at, parts = 0, []
    for start, end in sorted(spans):
        if start < at:
            continue
        flag = re.search(r"-{0,2}([\w-]+)[=\s,]+[\"']?$", text[:start])
        name = _variable(flag[1]) if flag else f"{_variable(key)}_PASSWORD" if key else "PASSWORD"
        parts += [text[at:start], str(ledger.secret(name, what, line=line))]
        at = end
    return "".join([*parts, text[at:]])


def _is_reference(text: str) -> bool:
    return re.fullmatch(r"\$\{[^}]*\}", text) is not None


def _variable(name: str) -> str:
    return re.sub(r"\W+", "_", name.lstrip("-")).upper().lstrip("0123456789_") or "SECRET"


def names_no_server(rejected: Rejected) -> bool:
    """Whether a command was refused because it starts no server that llamactl knows, rather than for what is in it."""
    return any(problem.code == NO_SERVER for problem in rejected.problems)


def understood(
    command: str, what: str, ledger: Ledger, read: Callable[[str], ParsedCommand], *, line: int | None = None
) -> ParsedCommand | None:
    """The command as ``read`` understands it, its warnings noted; None, and noted, when it is refused."""
    try:
        parsed = read(command)
    except Rejected as rejected:
        refusal(rejected, what, ledger, line=line)
        return None
    ledger.warnings(what, parsed, line=line)
    return parsed


def refusal(rejected: Rejected, what: str, ledger: Ledger, *, line: int | None = None) -> None:
    """Note why a command was refused."""
    if names_no_server(rejected):
        ledger.add(what, "not carried over: it starts no server that llamactl knows", ELSEWHERE, line=line)
        return
    for problem in rejected.problems:
        ledger.add(what, f"not carried over: {conceal(problem.message, stars='***')}", problem.hint, line=line)


def body_of(
    parsed: ParsedCommand,
    more: Mapping[str, OptionValue],
    ledger: Ledger,
    what: str,
    *,
    line: int | None = None,
    apart: Iterable[str] = ("environment",),
) -> dict[str, OptionValue]:
    """The instance: what the command said and the settings beside it. ``apart`` are keys whose secrets were seen to before."""
    done = set(apart)
    own = {
        key: value if key in done else withheld(value, ledger, what, line=line)
        for key, value in parsed.instance().items()
    }
    for key, value in more.items():
        mine = own.get(key)
        own[key] = {**mine, **value} if isinstance(mine, dict) and isinstance(value, dict) else value
    ledger.settle(own)
    return own


def plain_text(text: Text, what: str) -> str:
    """The text of a setting in which no variable can stand; Unsayable otherwise."""
    found = bare(text)
    if found is None:
        raise Unsayable(f"{what} holds a variable, which cannot be worked out here", "write the value itself")
    return found
