"""Limits on a document before it becomes data, and what may stand in it as text. Refuses bombs early, in flat memory."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from reconciler.config._tree import Place
from reconciler.core.errors import Problem, Rejected

MAX_NODES = 20_000
"""Values and keys of all files together; 1,000 instances of 15 settings each are some 30 nodes per instance in practice."""
MAX_DEPTH = 40
"""Levels of nesting, aliases followed; a fleet needs 6 and JSON-valued options a few more."""
MAX_ALIASES = 200
MAX_PROBLEMS = 200
"""Errors after which a load gives up: beyond it the file is something else, and the list is no help to anybody."""
MAX_EXPANDED = 200_000
"""Nodes once every alias is followed: what a walk over the data would visit."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_FORBIDDEN_RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_LONG_TAG = re.compile(r"(?<![^\s\[{,])!\S{1000}")
"""The YAML library takes quadratic time over a tag; nothing of ours begins with `!` and goes on for so long."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:[Tt ].*)?")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INT64 = range(-(2**63), 2**63)


class BadScalar(ValueError):
    """A scalar that has no place in a file of ours; the text is the message, ``hint`` the cure."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def resolve(text: str) -> str | int | float | bool | None:
    """A plain (unquoted) scalar by YAML 1.2's core schema; BadScalar for dates, infinities and integers beyond 64 bits."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text) or _BASED.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise BadScalar("this number is too large to be held exactly enough", "use a finite number")
        return number
    if _ENDLESS.fullmatch(text):
        raise BadScalar(f"{text} is not a number that any setting takes", "use a finite number")
    if _DATE.fullmatch(text):
        raise BadScalar("dates are not used here", f'put it in quotes to mean the text: "{text}"')
    return text


def _integer(text: str) -> int:
    if len(text) > 70:  # longer than any 64-bit number in any base, and int() itself is slow or refuses
        raise BadScalar("this integer does not fit in 64 bits", "put it in quotes to mean the text")
    number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if number not in _INT64:
        raise BadScalar("this integer does not fit in 64 bits", "put it in quotes to mean the text")
    return number


def check_text(text: str) -> str:
    """Text without control characters and lone surrogates (paired escapes, as JSON writes them, are joined); else BadScalar."""
    if _SURROGATE.search(text):
        try:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise BadScalar("half of a surrogate pair is no character", "write the character itself") from None
    found = _FORBIDDEN.search(text)
    if found:
        what = "NUL" if found[0] == "\0" else f"the control character U+{ord(found[0]):04X}"
        raise BadScalar(f"{what} is not allowed in text", "remove it")
    return text


def decode(data: bytes, name: str) -> str:
    """The file's text (UTF-8, or UTF-16 with its mark); Rejected with line and column for anything that is not text."""
    encoding = "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        place = _place_of(before.removeprefix("\ufeff"), name)
        raise rejected(
            place, f"this is not {encoding.upper()} text: {error.reason}", hint="save it as UTF-8"
        ) from error
    text = text.removeprefix("\ufeff")
    found = _FORBIDDEN_RAW.search(text)
    if found:
        place = _place_of(text[: found.start()], name)
        if found[0] == "\0":
            raise rejected(place, "NUL bytes in the file", hint="it was cut short or padded while it was written")
        raise rejected(place, f"the control character U+{ord(found[0]):04X} is not allowed", hint="remove it")
    tag = _LONG_TAG.search(text)
    if tag:
        raise rejected(_place_of(text[: tag.start()], name), "tags (`!…`) are not used here", hint="remove it")
    return text


def _place_of(before: str, name: str) -> Place:
    lines = re.split(r"\r\n|\r|\n", before)
    return Place(name, len(lines), len(lines[-1]) + 1)


def rejected(place: Place, message: str, *, hint: str | None = None, code: str = "CONFIG_INVALID") -> Rejected:
    """One problem at one place."""
    problem = Problem(message=message, hint=hint, code=code, file=place.file, line=place.line, column=place.column)
    return Rejected(problem)


def too_complex(place: Place, message: str) -> Rejected:
    """A limit was passed."""
    return rejected(
        place, message, code="CONFIG_TOO_COMPLEX", hint="no real fleet needs it; split or simplify the file"
    )


@dataclass(slots=True)
class Guard:
    """Counts over all files of one source; one per load."""

    nodes: int = 0
    aliases: int = 0

    def node(self, place: Place, depth: int) -> None:
        """One more value or key at this depth."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise too_complex(place, f"more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise too_complex(place, f"nested deeper than {MAX_DEPTH} levels")

    def alias(self, place: Place) -> None:
        """One more ``*alias``."""
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise too_complex(place, f"more than {MAX_ALIASES} aliases")

    @staticmethod
    def grown(place: Place, size: int, depth: int) -> None:
        """A value is complete, of this size and depth with every alias followed."""
        if size > MAX_EXPANDED:
            raise too_complex(place, f"its aliases expand to more than {MAX_EXPANDED:,} values")
        if depth > MAX_DEPTH:
            raise too_complex(place, f"its aliases nest deeper than {MAX_DEPTH} levels")
