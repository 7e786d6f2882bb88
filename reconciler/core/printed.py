"""What a program printed, made fit to be shown: one line of printable text without colours and without what may be a secret.

For text that nobody declared, so its words are judged by their shape and by what stands before them; in doubt a word is hidden. The
secrets of files and command lines, whose places are known, are the matter of ``secrets``.
"""

from __future__ import annotations

import re

from reconciler.core.secrets import conceal

STARS = "***"
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_MARKED = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_\w{6,}|sk-[\w-]{6,}|gh[pousr]_\w{10,}|github_pat_\w{6,}|glpat-[\w-]{6,}|nvapi-[\w-]{6,}"
    r"|xox[abpr]-[\w-]{6,}|AKIA[0-9A-Z]{12,}|eyJ[\w-]{10,}(?:\.[\w-]+)*)"
)
"""Keys that their issuers mark: Hugging Face, OpenAI and those who followed, GitHub, GitLab, NVIDIA, Slack, AWS, JSON web tokens."""
_NAMED = re.compile(
    r"""(?P<before>(?<![\w-])(?:[\w-]{0,64}(?:api[_-]?keys?|token|secret|passw(?:or)?d|passphrase|credentials?|[_-]key)|key)["']?
        \s*(?:[:=]|\bis\b)\s*["']?|\bauthorization["']?\s*[:=]\s*["']?(?:\w+\s+)?|\bbearer\s+)(?P<value>[^\s"',;)\]}]+)""",
    re.IGNORECASE | re.VERBOSE,
)
"""``password: HERE``, ``"api_key": "HERE"``, ``Authorization: Bearer HERE``."""
_AFTER = re.compile(
    r"""(?P<before>(?<![\w-])(?:[\w-]{0,64}(?:token|key|secret|passw(?:or)?d|passphrase)|basic)\s+["']?)"""
    r"""(?P<value>(?=[^\s"']*\d)[^\s"',;)\]}]{8,})""",
    re.IGNORECASE,
)
"""``token HERE``, where prose may follow as well: only a word of eight characters or more with a digit counts."""
_USER = re.compile(r"(?P<before>://)(?P<value>[^\s/@]+)(?=@)")


def without_colours(text: str) -> str:
    """The text without terminal control sequences."""
    return _ANSI.sub("", text)


def without_secrets(text: str) -> str:
    """The text with everything that may be a secret as :data:`STARS`."""
    for pattern in (_USER, _NAMED, _AFTER):
        text = pattern.sub(_starred, text)
    return _MARKED.sub(STARS, conceal(text, stars=STARS))


def _starred(found: re.Match[str]) -> str:
    return f"{found['before']}{STARS}"


def one_line(text: str) -> str:
    """The text in one line of printable characters, spaces joined; nothing is hidden or cut."""
    printable = "".join(char if char.isprintable() else " " for char in without_colours(text))
    return " ".join(printable.split())


def shown(text: str) -> str:
    """What a message may repeat of a program's output, in one line; whoever cuts it cuts after this, or half a secret stays."""
    return without_secrets(one_line(text))
