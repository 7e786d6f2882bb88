"""A systemd unit as assignments with lines, and its values: words, specifiers, variables, time spans (systemd.syntax(7), systemd.time(7)).

It reads text that it is given and knows nothing of the host; what only the running manager could tell is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.config.importers._words import Ref, Text, Unsayable, bare, joined, literal
from reconciler.core.spec import LONGEST_DURATION

_SECTION = re.compile(r"\[([^\]]+)\]")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "}
_NUMBERED = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})")
_REFERENCE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WHOLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)")
_UNITS: Mapping[str, float] = {
    **dict.fromkeys(("usec", "us", "µs"), 1e-6),
    **dict.fromkeys(("msec", "ms"), 1e-3),
    **dict.fromkeys(("seconds", "second", "sec", "s", ""), 1.0),
    **dict.fromkeys(("minutes", "minute", "min", "m"), 60.0),
    **dict.fromkeys(("hours", "hour", "hr", "h"), 3600.0),
    **dict.fromkeys(("days", "day", "d"), 86400.0),
    **dict.fromkeys(("weeks", "week", "w"), 604800.0),
}
_SYSTEM_FOLDERS = {
    "t": "/run",
    "S": "/var/lib",
    "C": "/var/cache",
    "L": "/var/log",
    "E": "/etc",
    "T": "/tmp",
    "V": "/var/tmp",
}
"""What these specifiers are for the system's manager (systemd.unit(5)); a user's manager has other folders."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One assignment."""

    section: str
    key: str
    value: str
    line: int


def settings(text: str) -> Iterator[Setting | tuple[str, int]]:
    """Every assignment in order; a line that is none, with its number."""
    section = ""
    for line, content in _joined_lines(text):
        heading = _SECTION.fullmatch(content)
        key, equals, value = content.partition("=")
        if heading is not None:
            section = heading[1]
        elif equals and section:
            yield Setting(section, key.strip(), value.strip(), line)
        else:
            yield content, line


def _joined_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that go on behind a backslash joined by a blank; comments and empty lines left out, also between joined ones."""
    held: list[str] = []
    start = 0
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        line = raw.strip()
        if line.startswith(("#", ";")) or (not line and not held):
            continue
        start = start if held else number
        if line.endswith("\\"):
            held.append(line[:-1].rstrip())
            continue
        yield start, " ".join([*held, line]).strip()
        held = []
    if any(held):
        yield start, " ".join(held).strip()


def words(value: str) -> tuple[str, ...]:
    """Split as systemd does: blanks separate, quotes of either kind hold together, C escapes everywhere. Unsayable for an open quote."""
    found: list[str] = []
    part: list[str] | None = None
    quote = ""
    at = 0
    while at < len(value):
        char = value[at]
        at += 1
        if char == "\\" and at < len(value):
            unescaped, at = _unescaped(value, at)
            part = [*(part or ()), unescaped]
        elif quote and char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote, part = char, part or []
        elif not quote and char.isspace():
            if part is not None:
                found.append("".join(part))
            part = None
        else:
            part = [*(part or ()), char]
    if quote:
        raise Unsayable(f"a quote {quote} is opened and never closed", "close it")
    return (*found, "".join(part)) if part is not None else tuple(found)


def _unescaped(value: str, at: int) -> tuple[str, int]:
    numbered = _NUMBERED.match(value, at)
    if numbered is not None:
        code = int(numbered[4], 8) if numbered[4] else int(numbered[1] or numbered[2] or numbered[3], 16)
        if not 0 < code < 0x110000:
            raise Unsayable(f"\\{numbered[0]} is no character")
        return chr(code), numbered.end()
    char = value[at]
    if char in _ESCAPES:
        return _ESCAPES[char], at + 1
    return (char if char in "\\\"'" else f"\\{char}"), at + 1


@dataclass(frozen=True, slots=True)
class Names:
    """What a unit's specifiers are made from; None where the file's name does not tell."""

    unit: str | None
    """``vllm@qwen.service``."""

    @property
    def prefix(self) -> str | None:
        """``vllm``."""
        return None if self.unit is None else self.unit.rpartition(".")[0].partition("@")[0]

    @property
    def instance(self) -> str | None:
        """``qwen``; None for the template itself."""
        return None if self.unit is None else self.unit.rpartition(".")[0].partition("@")[2] or None

    def expanded(self, text: str) -> Text:
        """The text with its specifiers; Unsayable for those that only the running manager knows."""
        pieces: list[str | Ref] = []
        at = 0
        while (percent := text.find("%", at)) >= 0:
            pieces += [text[at:percent], self._specifier(text[percent + 1 : percent + 2])]
            at = percent + 2
        return joined(tuple(piece for piece in (*pieces, text[at:]) if piece != ""))

    def _specifier(self, letter: str) -> str | Ref:
        if letter == "%":
            return "%"
        if letter == "h":
            return Ref("HOME")
        if letter in _SYSTEM_FOLDERS:
            return _SYSTEM_FOLDERS[letter]
        whole = self.unit
        stem = None if whole is None else whole.rpartition(".")[0]
        instance = self.instance
        known = {
            "n": whole,
            "N": stem,
            "p": self.prefix,
            "i": instance,
            "I": None if instance is None else _unit_unescaped(instance),
        }.get(letter)
        if known is not None:
            return known
        if letter in "iI":
            raise Unsayable(
                f"%{letter} is the name behind the @, and this is the template",
                "name the file as NAME@INSTANCE.service",
            )
        raise Unsayable(f"the specifier %{letter} is known to the running systemd alone", "write its value")


def _unit_unescaped(text: str) -> str:
    return re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text.replace("-", "/"))


def filled(parts: Sequence[Text], environment: Mapping[str, Text], dropped: list[str]) -> tuple[Text, ...]:
    """The words of a command with its variables, as systemd puts them in: ``${X}`` anywhere, ``$X`` as a whole word, split.

    A variable that the unit does not set becomes a reference; as a whole word it joins ``dropped``, because its words are not known.
    """
    found: list[Text] = []
    for part in parts:
        whole = _WHOLE.fullmatch(bare(part) or "")
        if whole is None:
            found.append(_referred(part, environment))
            continue
        value = environment.get(whole[1])
        text = None if value is None else bare(value)
        if text is None:
            dropped.append(whole[1])
        else:
            found += [literal(word) for word in text.split()]
    return tuple(found)


def _referred(text: Text, environment: Mapping[str, Text]) -> Text:
    pieces: list[Text] = []
    for piece in text:
        if isinstance(piece, Ref):
            pieces.append((piece,))
            continue
        at = 0
        for match in _REFERENCE.finditer(piece):
            pieces.append(literal(piece[at : match.start()]))
            name = match[1]
            pieces.append(literal("$") if name is None else environment.get(name, (Ref(name),)))
            at = match.end()
        pieces.append(literal(piece[at:]))
    return joined(*pieces)


def span(value: str) -> float | None:
    """Seconds of ``1min 30s``, ``90`` or ``500ms``; None for ``infinity``. Unsayable for anything else."""
    if value.strip() == "infinity":
        return None
    seconds, at = 0.0, 0
    text = value.strip()
    while at < len(text):
        match = _SPAN.match(text, at)
        if match is None or match[2] not in _UNITS:
            raise Unsayable(f"{value!r} is no time span", "write it as 90s, or 1min 30s")
        seconds += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    if not text or seconds > LONGEST_DURATION:
        raise Unsayable(f"{value!r} is no time span that llamactl knows", "write 3650d at most")
    return seconds


def duration(seconds: float) -> str:
    """As our file writes it."""
    return f"{round(seconds)}s" if seconds == round(seconds) else f"{round(seconds * 1000)}ms"


def assignments(value: str, names: Names) -> Iterator[tuple[str, Text]]:
    """``Environment=``: quoted words of ``NAME=value``; no variables are put in. Unsayable for what is no assignment."""
    for word in words(value):
        name, equals, rest = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            why = "one of its words is no assignment (it is not said here: it may be a part of a secret)"
            raise Unsayable(
                why, 'write NAME=value, and "NAME=value" with quotes around it where the value holds blanks'
            )
        yield name, names.expanded(rest)


def file_assignments(text: str) -> Iterator[tuple[str, str]]:
    """An environment file: ``NAME=value`` lines, comments, quotes, lines that go on behind a backslash (systemd.exec(5))."""
    for _, line in _joined_lines(text):
        name, equals, rest = line.partition("=")
        name = name.removeprefix("export ").strip()
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            yield name, _unquoted(rest.strip())


def _unquoted(value: str) -> str:
    for quote in "'\"":
        if len(value) > 1 and value[0] == value[-1] == quote:
            inner = value[1:-1]
            return inner if quote == "'" else re.sub(r"\\([\"\\`$])", r"\1", inner)
    return re.sub(r"\\(.)", r"\1", value)
