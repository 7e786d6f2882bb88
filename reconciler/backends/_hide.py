"""Keeps secrets of a pasted command out of what is said about it, by the flag or variable they belong to, or by their shape.

What is said names flags, variables and places; values of secret and unknown flags and of variables are never repeated.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from pydantic import JsonValue

from reconciler.backends._vocabulary import Vocabulary
from reconciler.backends._word import Word
from reconciler.core.secrets import is_secret_flag, is_secret_name, secrets_in

SLIP = 0.85
"""Likeness of two flags from which on the one is taken for a misspelling of the other; two options of a server are seldom so alike."""

_SHAPES = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        hf_\w{6,} | sk-[\w-]{6,} | gh[pousr]_\w{10,} | github_pat_\w{6,} | glpat-[\w-]{6,} | nvapi-[\w-]{6,}
      | xox[abpr]-[\w-]{6,} | AKIA[0-9A-Z]{12,} | eyJ[\w-]{10,} | (?:bearer|basic)\s+\S+
    )
    | ://[^\s/@]+@ | (?<![\w/.-])[\w.-]+:[^\s/@:]+@(?!sha256:)[\w.-] | authorization\s*[:=]
    | [?&][\w-]*(?:signature|sig|credential|token|key|secret)=
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Keys of well-known services, a name and password in a URL, an HTTP header."""
_IN_JSON = re.compile(r"""["']([\w-]{1,64})["']\s*:""")
_REFERENCE = re.compile(r"(?:(?<![\w.-])[\w.-]{1,64}:)?\$\{\w+\}")
_HEADER = re.compile(r"""(?i)authorization\s*[:=]\s*(?:bearer|basic|token)?\s*["']*$""")
"""A header of which a variable holds the rest."""
_PLAIN = re.compile(r"[\w./:@+-]{1,60}")
_RUN = re.compile(r"[^\W_]+")
_ORDINARY = re.compile(
    r"[a-z]+\d{0,5}[a-z]?|[A-Z]+\d{0,5}|(?:[A-Z]{1,4}[a-z]{2,}){1,4}[A-Z]{0,4}\d{0,4}[A-Za-z]?"
    r"|[a-z]+(?:[A-Z][a-z]+){1,3}|\d{1,5}[a-zA-Z]{0,3}"
)
_SHORT_RUN = 4
"""Characters in a row of which nothing can be told (``8x7B``, ``Q4``); no secret is that short."""
_LONGEST_RUN = 24
_VOICELESS = 7
"""Letters without a vowel among them that are no word any more."""
_GLUED = re.compile(
    r"""(?i)-{1,2}(?:hft(?!$)|(?:[a-z]+[-_])*(?:api[-_]?key|hf[-_]?token|password|passwd|secret|token(?!s|iz))
        (?!s?$|[-_](?:file|path|env|name|var|id|header|key|type)s?$).)""",
    re.VERBOSE,
)
"""A secret's flag with more behind it that no flag has: most likely the secret."""
_SHORTENED = ("api-key", "hf-token")
"""Flags that argparse takes by any beginning that no other flag has."""


def ordinary(text: str) -> bool:
    """Whether a text is made of words, numbers and versions as names of models, files and settings are; a password seldom is."""
    return all(_is_word(run) for run in _RUN.findall(text))


def _is_word(run: str) -> bool:
    if len(run) <= _SHORT_RUN:
        return True
    if len(run) > _LONGEST_RUN or (run.isascii() and not _ORDINARY.fullmatch(run)):
        return False
    letters = re.sub(r"\d", "", run).lower()
    return len(letters) < _VOICELESS or not letters.isascii() or re.search("[aeiouy]", letters) is not None


def looks_secret(text: str) -> bool:
    """Whether a text has the shape of a secret, or holds one by name (``"api_key": ...``, ``--token x``)."""
    return (
        _SHAPES.search(text) is not None
        or any(is_secret_name(found[1]) for found in _IN_JSON.finditer(text))
        or next(secrets_in(text), None) is not None
    )


def holds_secret(value: JsonValue) -> bool:
    """Whether a value of the file holds a secret that is written out; one that a variable stands for is none."""
    match value:
        case str():
            return looks_secret(_HEADER.sub("", _REFERENCE.sub("", value)))
        case list():
            return any(holds_secret(item) for item in value)
        case dict():
            return any(
                holds_secret(item) or (isinstance(item, str) and is_secret_name(key) and bool(_REFERENCE.sub("", item)))
                for key, item in value.items()
            )
        case _:
            return False


def named(text: str, otherwise: str = "this word") -> str:
    """A word as a message may say it: itself where it is short and plain, else only that it is one."""
    return repr(text) if _PLAIN.fullmatch(text) and not looks_secret(text) else otherwise


def flag_named(text: str) -> str:
    """An unknown flag as a message may say it."""
    name = text.partition("=")[0]
    fits = re.fullmatch(r"--?[A-Za-z][\w.+-]{0,60}", name) and ordinary(name) and not _GLUED.match(name)
    return name if fits and not looks_secret(name) else "this flag"


def secret_flag(name: str) -> bool:
    """Whether an unknown flag's name says that its value is a secret, also where it is misspelled, shortened or goes on."""
    plain = name.lstrip("-").replace("_", "-").lower()
    return (
        is_secret_flag(name)
        or _GLUED.match(name) is not None
        or is_secret_name(plain)
        or (len(plain) > 1 and any(one.startswith(plain) for one in _SHORTENED))
        or plain.startswith(("api-key.", "api-key:", "hf-token.", "hf-token:", "hft"))
    )


def secret_variable(name: str, value: str) -> bool:
    """Whether an environment variable holds a secret, by its name or its value."""
    return is_secret_name(name) or looks_secret(value)


def at_word(word: Word, message: str) -> str:
    """A warning with its place."""
    return f"{word.place}: {message}"


def misspelt_secret(vocabulary: Vocabulary, name: str) -> bool:
    """Whether an unknown flag is a slip away from one that takes a secret: what stands behind it is then one too."""
    wanted = name.replace("_", "-").lower()
    flags = (flag for option in vocabulary if option.secret for flag in option.flags)
    return name.startswith("--") and any(SequenceMatcher(None, wanted, flag).ratio() >= SLIP for flag in flags)
