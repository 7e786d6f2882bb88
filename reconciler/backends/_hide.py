"""Keeps secrets of a pasted command out of what is said about it, by the flag or variable they belong to, or by their shape.

What is said names flags, variables and places; values of secret and unknown flags and of variables are never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from reconciler.backends._tokens import Word, lines_of
from reconciler.core.errors import Rejected
from reconciler.core.secrets import is_secret_flag, is_secret_name, secrets_in

_SHAPES = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        hf_\w{6,} | sk-[\w-]{6,} | gh[pousr]_\w{10,} | github_pat_\w{6,} | glpat-[\w-]{6,} | nvapi-[\w-]{6,}
      | xox[abpr]-[\w-]{6,} | AKIA[0-9A-Z]{12,} | eyJ[\w-]{10,} | (?:bearer|basic)\s+\S+
    )
    | ://[^\s/@]+@ | authorization\s*[:=]
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Keys of well-known services, a name and password in a URL, an HTTP header."""
_IN_JSON = re.compile(r"""["']([\w-]{1,64})["']\s*:""")
_WORD = re.compile(r"""(?:'[^']*'?|"(?:[^"\\]|\\.)*"?|\\.|[^\s'"\\]+)+""", re.DOTALL)
_ASSIGNED = re.compile(r"""["']?([A-Za-z_][A-Za-z0-9_]*)=(?!["']?\$)""")
_INNER_ASSIGNED = re.compile(r"""[\s'"][A-Z_][A-Z0-9_]*=""")
_PLAIN = re.compile(r"[\w./:@+-]{1,60}")
_LONGEST_SHOWN = 16 * 1024
"""Characters of a command of which a line is shown at all: masking costs 1 µs for each."""
_LONGEST_SOURCE = 400
"""Characters of a line that a problem carries."""


def looks_secret(text: str) -> bool:
    """Whether a text has the shape of a secret, or holds one by name (``"api_key": ...``, ``--token x``)."""
    return (
        _SHAPES.search(text) is not None
        or any(is_secret_name(found[1]) for found in _IN_JSON.finditer(text))
        or next(secrets_in(text), None) is not None
    )


def named(text: str, otherwise: str = "this word") -> str:
    """A word as a message may say it: itself where it is short and plain, else only that it is one."""
    return repr(text) if _PLAIN.fullmatch(text) and not looks_secret(text) else otherwise


def flag_named(text: str) -> str:
    """An unknown flag as a message may say it."""
    name = text.partition("=")[0]
    return name if re.fullmatch(r"--?[A-Za-z][\w.+-]{0,60}", name) and not looks_secret(name) else "this flag"


def secret_flag(name: str) -> bool:
    """Whether an unknown flag's name says that its value is a secret."""
    return (
        is_secret_flag(name) or re.search(r"(?i)secret|passw|token$|credential|auth(?:orization)?$", name) is not None
    )


def secret_variable(name: str, value: str) -> bool:
    """Whether an environment variable holds a secret, by its name or its value."""
    return is_secret_name(name) or "SECRET" in name.upper() or "PASSW" in name.upper() or looks_secret(value)


def with_source(rejected: Rejected, command: str, shows: Callable[[str], bool]) -> Rejected:
    """The refusal with the line that it is about, for display; what may be a secret is starred out, columns unchanged.

    ``shows`` tells whether the value of a flag may be shown: a known flag that is no secret.
    """
    if len(command) > _LONGEST_SHOWN:
        return rejected
    text = lines_of(command)
    masked = list(text)
    for start, end in _hidden(text, shows):
        masked[start:end] = ["\n" if char == "\n" else "*" for char in masked[start:end]]
    lines = "".join(masked).split("\n")
    return Rejected(
        *(
            replace(problem, source=lines[problem.line - 1][:_LONGEST_SOURCE] or None)
            if problem.line is not None and problem.line <= len(lines)
            else problem
            for problem in rejected.problems
        )
    )


def _hidden(text: str, shows: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    hiding = next_one = False
    """Until the next flag; the next word whatever it looks like."""
    for found in _WORD.finditer(text):
        word, at = found[0], found.start()
        assigned = _ASSIGNED.match(word)
        bare = word.strip("'\"")
        flag, equals, _ = bare.partition("=")
        if next_one:
            yield at, found.end()
            next_one = False
        elif flag.startswith("-") and len(flag) > 1 and not re.fullmatch(r"-[0-9.]+", flag):
            visible = shows(flag)
            hiding = not visible and not equals
            next_one = hiding and secret_flag(flag)
            if equals and not visible:
                yield at + word.index("=") + 1, found.end()
            elif looks_secret(word):
                yield at, found.end()
        elif assigned is not None:
            yield at + assigned.end(), found.end()
        elif hiding or looks_secret(word) or _INNER_ASSIGNED.search(word):
            yield at, found.end()


def at_word(word: Word, message: str) -> str:
    """A warning with its place."""
    return f"{word.place}: {message}"
