"""Which names hold secrets, and text with its secrets made unreadable. Knows shapes only; where a value stood is not its matter."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = (
    r"(?:[\w-]*api[_-]?keys?|[\w-]*token|[\w-]*secret|[\w-]*passw(?:or)?d|[\w-]*passphrase|[\w-]*credentials?"
    r"|[\w-]*[_-]key|key)"
)
_SHORTENED = r"(?:api[_-]ke?|hf[_-]to?k?e?|hft)"
"""Flags as a server also takes them, cut short or as its short form: no name of a setting."""
_ELSEWHERE = r"(?:[\w-]*(?:secret|passw)[\w-]*(?<!file)(?<!path)(?<!dir)|[\w-]*[_-](?:pass|pat|pwd|auth|bearer|jwt))"
"""Further names of settings and variables; as words of a text they may be prose."""
_NAME = re.compile(rf"{_WORD}|{_ELSEWHERE}", re.IGNORECASE)
_FLAG = re.compile(
    rf"--?(?:{_WORD}|{_SHORTENED}|{_ELSEWHERE}|auth|[\w-]*authorization|[\w-]*credential[\w-]*)", re.IGNORECASE
)
_USERINFO = r"://[^\s/@:]*:(?P<password>[^\s/@]+)(?=@)"
_VALUE = r"""(?P<{0}>"[^"]*"?|'[^']*'?|[^\s"',\]}}]+)"""
_ASSIGNED = rf"(?<![\w-])(?:-{{0,2}}{_WORD}|--?{_SHORTENED})=" + _VALUE.format("assigned")
_FOLLOWING = rf"""(?<![\w-])--?(?:{_WORD}|{_SHORTENED})(?:["']?\s*,\s*|["']?\s+)""" + _VALUE.format("following")
_IN_MESSAGES = re.compile(rf"{_USERINFO}|{_ASSIGNED}", re.IGNORECASE)
_IN_VALUES = re.compile(rf"{_USERINFO}|{_ASSIGNED}|{_FOLLOWING}", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a setting's name says that its value should not be shown: ``hf_token``, ``api-key``; not ``max_tokens``."""
    return _NAME.fullmatch(name) is not None


def is_secret_flag(word: str) -> bool:
    """Whether the word after this one on a command line is a secret."""
    return _FLAG.fullmatch(word) is not None


def secrets_in(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of every secret that a value or a line of a file holds: ``://user:HERE@``, ``--api-key=HERE``, ``--token HERE``."""
    return _spans(_IN_VALUES, text)


def conceal(text: str, *, stars: str | None = None, message: bool = False) -> str:
    """The text with those secrets as ``stars``, or (None) starred out at their length.

    In a ``message``, prose may follow a flag's name, so only what is joined to it by ``=`` counts.
    """
    parts: list[str] = []
    at = 0
    for start, end in _spans(_IN_MESSAGES if message else _IN_VALUES, text):
        parts += [text[at:start], "*" * (end - start) if stars is None else stars]
        at = end
    return "".join([*parts, text[at:]])


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        name = match.lastgroup
        if name is not None and not match[name].strip("\"'").startswith(("${", "$(", "-")):
            yield match.span(name)
