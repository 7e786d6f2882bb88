"""One option's value as text for the command line, and back. Every check of a value is here, so that files, pasted commands
and the schema agree on what a server takes. Pure; knows nothing of flags or files.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata

from pydantic import JsonValue

from reconciler.backends._hints import broken_json, nearest, said_bool
from reconciler.backends._vocabulary import Kind, Option, Type

TRUE_TEXTS = ("true", "True", "TRUE")
FALSE_TEXTS = ("false", "False", "FALSE")
INT_TEXT = r"[+-]?[0-9]+"
FLOAT_TEXT = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_HUMAN_NUMBER = re.compile(r"\b\d+(?:\.\d+)?[kKmMgGtT]\b")
_LONGEST_WHOLE = 20
"""Characters of a whole number of 64 bits."""
_LONGEST_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


class ValueProblem(Exception):
    """A value that the option cannot take; ``item`` is the place in a list."""

    def __init__(self, message: str, *, hint: str | None = None, item: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.item = item


def shown(value: object, option: Option | None = None) -> str:
    """A value for a message: short, without control characters, never a secret."""
    if option is not None and option.secret:
        return "the given value"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if not isinstance(value, str):
        return json.dumps(value, default=str)[:_LONGEST_SHOWN]
    text = "".join(ch if ch.isprintable() else "\N{REPLACEMENT CHARACTER}" for ch in value[: _LONGEST_SHOWN + 1])
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")


def check_text(text: str, *, multiline: bool = False) -> None:
    """Raise ValueProblem for NUL, control characters and what cannot be passed to a program."""
    for at, char in enumerate(text):
        if unicodedata.category(char) in ("Cc", "Cs") and not (multiline and char in "\n\t\r"):
            raise ValueProblem(
                f"holds a character that cannot be passed on (U+{ord(char):04X} at position {at + 1})",
                hint="remove it",
            )


def expected(option: Option) -> str:
    """What one value of the option is, in words: ``a whole number or auto``."""
    if option.choices and option.kind is not Kind.SWITCH:
        base = "one of " + ", ".join(str(choice) for choice in option.choices)
    else:
        base = {
            Type.BOOL: "true or false",
            Type.INT: "a whole number" + _limits(option),
            Type.FLOAT: "a number" + _limits(option),
            Type.STR: "text",
            Type.JSON: "a mapping (YAML or JSON)" if option.mapping else "JSON (a YAML mapping or list)",
            Type.ANY: "a word or a number",
        }[option.type]
    also = [*option.words]
    if option.pattern is not None:
        also.append("a size such as 32k" if "k" in option.pattern else "a size such as 2GB")
    if option.type is Type.JSON and option.text:
        also.append("text")
    return " or ".join([base, *also])


def _limits(option: Option) -> str:
    """``from 1 to 65535``, ``above 0, at most 1``; empty without limits."""
    if option.minimum is not None and option.maximum is not None:
        return f" from {option.minimum:g} to {option.maximum:.10g}"
    limits = {"of at least": option.minimum, "above": option.above, "at most": option.maximum, "below": option.below}
    said = [f"{word} {edge:.10g}" for word, edge in limits.items() if edge is not None]
    return " " + " and ".join(said) if said else ""


def _within(option: Option, number: float) -> bool:
    """Whether the server takes a number of this worth."""
    return option.doubted or not (
        (option.minimum is not None and number < option.minimum)
        or (option.maximum is not None and number > option.maximum)
        or (option.above is not None and number <= option.above)
        or (option.below is not None and number >= option.below)
    )


def _wrong(option: Option, value: JsonValue, *, hint: str | None = None) -> ValueProblem:
    if hint is None and not option.secret:
        hint = nearest(option, value)
    return ValueProblem(f"{option.flag} takes {expected(option)}, not {shown(value, option)}", hint=hint)


def item_text(option: Option, value: JsonValue) -> str:
    """One value as one command line word; raises ValueProblem."""
    if value is None:
        raise ValueProblem(
            f"{option.flag} has no value; it takes {expected(option)}", hint="give one, or remove the line"
        )
    text = _json_text(option, value) if option.type is Type.JSON else _plain_text(option, value)
    check_text(text, multiline=option.multiline or option.type is Type.JSON)
    return text


def _plain_text(option: Option, value: JsonValue) -> str:
    if isinstance(value, bool):
        if {"on", "off"} <= set(option.choices):
            return "on" if value else "off"
        raise _wrong(option, value)
    if isinstance(value, str):
        if not accepts_text(option, value):
            raise _wrong(option, value)
        return value
    if isinstance(value, int):
        if option.type is Type.STR or (option.choices and value not in option.choices):
            raise _wrong(option, value)
    elif not isinstance(value, float) or not math.isfinite(value) or option.type not in (Type.FLOAT, Type.ANY):
        raise _wrong(option, value)
    if not _within(option, value):
        raise _wrong(option, value)
    return str(value) if isinstance(value, int) else repr(value)


def accepts_text(option: Option, text: str) -> bool:
    """Whether one (non JSON) value may be this text on the command line."""
    if option.nullable and text in ("None", ""):
        return True
    if text in option.words or (option.pattern is not None and re.fullmatch(option.pattern, text)):
        return True
    if option.choices:
        return text in {str(choice) for choice in option.choices}
    match option.type:
        case Type.INT:
            return re.fullmatch(INT_TEXT, text) is not None and _within(option, float(text))
        case Type.FLOAT:
            return re.fullmatch(FLOAT_TEXT, text) is not None and _within(option, float(text))
        case _:
            return True


def _json_text(option: Option, value: JsonValue) -> str:
    if isinstance(value, str):
        if option.text or (option.nullable and value in ("None", "")):
            return value
        if not _reads_as_json(value):
            raise _broken(option, value)
        if option.mapping and not value.lstrip().startswith("{"):
            raise _wrong(option, value)
        return value
    if option.mapping and not isinstance(value, dict):
        raise _wrong(option, value)
    try:
        return json.dumps(
            value, sort_keys=not option.ordered, ensure_ascii=False, separators=(",", ":"), allow_nan=False
        )
    except ValueError:
        raise _wrong(option, value, hint="JSON knows no infinity and no NaN") from None


def _broken(option: Option, text: str) -> ValueProblem:
    """Text that is no JSON. It is not repeated: what does not parse may hold a secret that nobody finds in it."""
    where, cure = broken_json(text) or ("", None)
    message = f"{option.flag} takes {expected(option)}, and this text is not JSON: {where}"
    return ValueProblem(message, hint=cure or nearest(option, text))


def is_json(text: str) -> bool:
    """Whether the text is JSON, doubled keys and NaN included."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _reads_as_json(text: str) -> bool:
    """Whether a server reads it as JSON; vLLM also reads ``80m`` as a number there."""
    return is_json(text) or is_json(_HUMAN_NUMBER.sub("0", text))


def item_value(option: Option, text: str) -> JsonValue:
    """The value that :func:`item_text` writes as this text; raises ValueProblem for a text the option does not take."""
    check_text(text, multiline=option.multiline or option.type is Type.JSON)
    if option.type is Type.JSON:
        return _json_value(option, text)
    if "${" in text:
        return text  # a variable: read when the file is loaded
    if not accepts_text(option, text):
        raise _wrong(option, text)
    return number_or_text(option, text)


def number_or_text(option: Option, text: str) -> JsonValue:
    """Numbers where the option takes numbers and the text is one, without loss; the text itself otherwise."""
    if option.type in (Type.INT, Type.FLOAT, Type.ANY):
        if re.fullmatch(INT_TEXT, text) and len(text) <= 18 and (option.type is not Type.ANY or str(int(text)) == text):
            return int(text)
        if option.type is Type.FLOAT and re.fullmatch(FLOAT_TEXT, text) and math.isfinite(float(text)):
            return float(text)
    return text


def _json_value(option: Option, text: str) -> JsonValue:
    if option.text and not re.fullmatch(r"(?s)\s*\{.*\}\s*", text):
        return text
    value = decode_json(text)
    if value is None or isinstance(value, str):
        if option.text or "${" in text or _reads_as_json(text) or (option.nullable and text in ("None", "")):
            return text
        raise ValueProblem(
            _broken(option, text).message,
            hint="put single quotes around the whole JSON text, so that the shell leaves its double quotes alone",
        )
    return value


def decode_json(text: str) -> JsonValue:
    """The data behind a JSON text when nothing is lost by it (no doubled keys, no NaN, 64 bits); None otherwise."""
    try:
        value: JsonValue = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_whole)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _whole(digits: str) -> int:
    """Larger numbers stay text: a configuration file holds none."""
    if len(digits) > _LONGEST_WHOLE or not -(2**63) <= int(digits) < 2**63:
        raise ValueError("more than 64 bits")
    return int(digits)


def _refuse(name: str) -> JsonValue:
    raise ValueError(name)


def read_bool(option: Option, value: JsonValue) -> bool:
    """A switch's value; text is understood because variables expand to text. Raises ValueProblem."""
    if isinstance(value, bool):
        return value
    if value is None:
        raise ValueProblem(f"{option.flag} has no value; it takes true or false", hint="give one, or remove the line")
    if isinstance(value, str) and value in TRUE_TEXTS:
        return True
    if isinstance(value, str) and value in FALSE_TEXTS:
        return False
    said = said_bool(value)
    hint = None if said is None else f"write {str(said).lower()}"
    raise ValueProblem(f"{option.flag} takes true or false, not {shown(value, option)}", hint=hint)
