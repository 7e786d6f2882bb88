"""Keeps secrets out of everything that is said about a file: known by their place, and by their shape where there is no tree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from reconciler.config._tree import Node, Path, Scalar, Sequence, Table, scalars
from reconciler.core.secrets import conceal, is_secret_flag, is_secret_name, secrets_in

_SHORTEST = 6
"""Characters; shorter values are hidden where they stand, but replacing every ``1`` or ``on`` would garble messages."""
_SHORTEST_PREFIX = 4
"""Characters of a secret that a message which cut it may not show either."""
_DELICATE = re.compile(r"(?i)key|token|secret|pass|cred|auth|cookie|pin\b|salt|hash")
_SWITCHES = re.compile(r"(?:[A-Z]+_)*VISIBLE_DEVICES|VLLM_[A-Z0-9_]+|LLAMA_ARG_[A-Z0-9_]+")
"""Variables that the servers and the GPU runtimes read; those among them that hold secrets have delicate names."""
_BRIEF = re.compile(r"(?i)true|false|yes|no|on|off|[+-]?[0-9.]{1,5}")
"""Booleans and numbers of fewer than six characters."""
_PLAIN = re.compile(r"[A-Za-z0-9_.,: /-]*")
_KEYLIKE = re.compile(
    r"(?i)(?<![a-z0-9])(?:sk|hf|gh[pousr]|nvapi|glpat|xox[a-z])[_-]|(?=[A-Za-z_-]*[0-9])[\w-]{16,}|://"
)
"""Prefixes of well-known services' keys, long words with digits in them, and addresses, which may hold a password."""
_LONGEST_PLAIN = 40
"""Characters of a variable's value that a line shows."""
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_SETTINGS = ("file", "env", "name", "instances", "sha256", "value")
_OF_A_KEY = re.compile(
    r"""(?<![\w-])["']?(?:value|[\w-]*api[_-]?keys?|[\w-]*token|[\w-]*secret|[\w-]*passw(?:or)?d|[\w-]*credentials?"""
    r"""|[\w-]*[_-]key|key)["']?\s*:\s*(?P<secret>"[^"]*"?|'[^']*'?|[^\s,}\]#{\[][^,}\]#]*)""",
    re.IGNORECASE,
)
_HEADING = re.compile(r"""(?P<indent>[\s\-]*)["']?(?P<name>auth|environment)["']?\s*:""")
_ANYWHERE = re.compile(r"""(?<![\w-])["']?(?:auth|environment)["']?\s*:""")
_WORD = re.compile(r""""[^"]*"?|'[^']*'?|[^\s\[\]{},"']+""")


def is_secret(path: Path, value: object = None) -> bool:
    """Whether what stands at this place of the document is not to be shown."""
    if path[:1] == ("auth",):
        setting = path[3] if len(path) > 3 else None
        if setting == "env":
            return not isinstance(value, str) or _VARIABLE.fullmatch(value) is None
        return setting not in ("file", "name", "instances")
    steps = path[2:] if path[:1] == ("instances",) else path
    if steps[-2:-1] == ("environment",) and _harmless(str(steps[-1]), value):
        return False
    return any(isinstance(step, str) and (step == "environment" or is_secret_name(step)) for step in steps)


def _harmless(name: str, value: object) -> bool:
    """Whether a declared variable is known to hold no secret: by a name that only switches something, or a value too short for one."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if _DELICATE.search(name) or not isinstance(value, (str, int, float)) or len(text) > _LONGEST_PLAIN:
        return False
    if _BRIEF.fullmatch(text):
        return True
    return _SWITCHES.fullmatch(name) is not None and _PLAIN.fullmatch(text) is not None and not _KEYLIKE.search(text)


def mask_line(line: str) -> str:
    """The line with what looks like a secret starred out, columns unchanged; ``${VAR}`` references stay."""

    def star(match: re.Match[str]) -> str:
        secret = match["secret"].rstrip()
        if "${" in secret or secret in ("|", ">", "null", "~", "true", "false"):
            return match[0]
        start = match.start("secret") - match.start()
        return match[0][:start] + "*" * len(secret) + match[0][start + len(secret) :]

    return conceal(_OF_A_KEY.sub(star, line))


def mask_unread(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of a file that is not YAML: everything below ``auth`` and ``environment`` is starred out, but for the keys."""
    masked: list[str] = []
    inside: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip(" \t"))
        if inside is not None and line.strip() and (indent < inside or (indent == inside and line[indent] != "-")):
            inside = None
        if inside is not None:
            masked.append(_words_starred(line))
            continue
        found = _ANYWHERE.search(line)
        if found is None:
            masked.append(mask_line(line))
            continue
        masked.append(mask_line(line[: found.end()]) + _words_starred(line[found.end() :]))
        heading = _HEADING.match(line)
        inside = len(heading["indent"]) if heading is not None else 0
    return tuple(masked)


def _words_starred(text: str) -> str:
    def star(match: re.Match[str]) -> str:
        word = match[0]
        name, colon, rest = word.partition(":")
        follows = bool(colon and not rest) or text[match.end() :].lstrip().startswith(":")
        is_first = text[: match.start()].rstrip()[-1:] in ("", "-", "{", "[", ",")
        is_key = follows and is_first and _VARIABLE.fullmatch(name.strip("\"'")) is not None
        if is_key or word in ("-", "|", ">") or word.startswith("#") or _REFERENCE.fullmatch(word.strip("\"'")):
            return word
        return "*" * len(word)

    return conceal(_WORD.sub(star, text))


@dataclass(slots=True)
class Secrets:
    """One per load: texts that may not be said, and where in the files they stand."""

    _texts: dict[str, str] = field(default_factory=dict)
    _spans: dict[tuple[str, int], list[tuple[int, int | None]]] = field(default_factory=dict)
    """By file and line: columns from 0; None is the line's end."""

    def hide(self, secret: str, shown: str = "***") -> None:
        """Never let this text appear in a message, as it is or as Python or JSON would quote it."""
        if len(secret) >= _SHORTEST and not _REFERENCE.fullmatch(secret):
            for text in (
                secret,
                repr(secret)[1:-1],
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
            ):
                self._texts.setdefault(text, shown)

    def learn(self, root: Table) -> None:
        """Every secret that a document holds."""
        after_flag: set[Path] = set()
        for path, scalar in scalars(root):
            text = scalar.value if isinstance(scalar.value, str) else scalar.raw
            step = path[-1] if path else None
            if isinstance(step, int) and is_secret_flag(text):
                after_flag.add((*path[:-1], step + 1))
            if scalar.value is None and not scalar.raw:
                continue
            if path in after_flag or is_secret(path, scalar.value):
                self._cover(scalar)
                if "environment" not in path or is_secret_name(str(step)):  # its other values are words of all kinds
                    self.hide(text)
            for start, end in secrets_in(text):
                self.hide(text[start:end].strip("\"'"))
        for name, entry in root.entries.items():
            if name == "auth":
                self._learn_names(entry.node)

    def _learn_names(self, auth: Node) -> None:
        """A key's text may have been written where a setting's name belongs."""
        for table in _tables(auth, 0):
            for name, entry in table.entries.items():
                if len(name) > max(map(len, _KEY_SETTINGS)) + 2 and not name.startswith("x-"):
                    self.hide(name)
                    place = entry.key_place
                    spans = self._spans.setdefault((place.file, place.line), [])
                    spans.append((place.column - 1, place.column - 1 + len(name)))

    def _cover(self, scalar: Scalar) -> None:
        file, line, column = scalar.place
        last, end = scalar.end
        for number in range(line, max(last, line) + 1):
            start = column - 1 if number == line else 0
            stop = end - 1 if number == last else None if number < last else start
            self._spans.setdefault((file, number), []).append((start, stop))

    def clean(self, text: str) -> str:
        """The message without any of them, whole or cut short."""
        for secret in sorted(self._texts, key=len, reverse=True):
            if secret in text:
                text = text.replace(secret, self._texts[secret])
        for mark in ("…", "..."):
            head, found, tail = text.partition(mark)
            if found:
                text = self._uncut(head) + mark + tail
        return conceal(text, stars="***", message=True)

    def _uncut(self, head: str) -> str:
        for secret, shown in self._texts.items():
            at = head.rfind(secret[:_SHORTEST_PREFIX])
            if at >= 0 and secret.startswith(head[at:]):
                return head[:at] + shown
        return head

    def line(self, file: str, number: int, text: str) -> str:
        """A line of a file, starred out where a secret stands."""
        for start, stop in self._spans.get((file, number), ()):
            stop = len(text) if stop is None else stop
            text = text[:start] + _starred(text[start:stop]) + text[stop:]
        for secret in sorted(self._texts, key=len, reverse=True):
            if secret in text and not self._texts[secret].startswith("${"):
                text = text.replace(secret, "*" * len(secret))
        return mask_line(text)


def _starred(text: str) -> str:
    """All but blanks and plain ``${VAR}`` references."""
    parts: list[str] = []
    at = 0
    for match in _REFERENCE.finditer(text):
        parts += [re.sub(r"\S", "*", text[at : match.start()]), match[0]]
        at = match.end()
    return "".join([*parts, re.sub(r"\S", "*", text[at:])])


def _tables(node: Node, depth: int) -> Iterator[Table]:
    """Tables below the sections of ``auth``: keys, or what was written in place of a list of keys."""
    match node:
        case Table():
            if depth > 0:
                yield node
            for entry in node.entries.values():
                yield from _tables(entry.node, depth + 1)
        case Sequence():
            for item in node.items:
                yield from _tables(item, depth)
        case Scalar():
            return
