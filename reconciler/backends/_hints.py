"""The nearest right thing to a wrong value, in words for its writer. Guesses only; what is right is decided in ``_values``.

A secret's value is never given to these functions.
"""

from __future__ import annotations

import json
import math
import re
from difflib import get_close_matches

from pydantic import JsonValue

from reconciler.backends._sizes import FACTORS
from reconciler.backends._vocabulary import Kind, Option, Type

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT])(?:i?[bB])?")
_GROUPED = re.compile(r"\d{1,3}(?:[,_ ]\d{3})+")
_NEARLY_JSON = (("'", "JSON wants double quotes"), ("True", "JSON writes true"), ("None", "JSON writes null"))


def said_bool(value: JsonValue) -> bool | None:
    """What a word of another convention says: ``yes``, ``off``, ``1``; None for anything else."""
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "y", "t", "1", "enable", "enabled"):
        return True
    return False if word in ("false", "no", "off", "n", "f", "0", "disable", "disabled") else None


def nearest(option: Option, value: JsonValue) -> str | None:
    """``did you mean 0.5?`` for one wrong value of an option; None where nothing is near."""
    if value is None or isinstance(value, (dict, list)):
        return None
    if option.choices:
        return _choice(option, value)
    match option.type:
        case Type.INT | Type.FLOAT:
            return _number(option, value)
        case Type.STR if isinstance(value, bool):
            return f'quote it if the word is meant: "{str(value).lower()}"'
        case Type.STR if isinstance(value, (int, float)):
            return f'quote it: "{value}"'
        case Type.JSON:
            return "write it as a YAML mapping" if option.mapping else "write it as a YAML mapping or list"
        case _:
            return None


def _choice(option: Option, value: JsonValue) -> str | None:
    words = [*(str(choice) for choice in option.choices), *option.words]
    text = str(value)
    same = [word for word in words if word.lower().replace("-", "_") == text.strip().lower().replace("-", "_")]
    inside = [word for word in words if len(text) > 2 and text.lower() in word.lower()]
    close = same or get_close_matches(text, words, n=1, cutoff=0.5) or inside[:1]
    if close:
        return f"did you mean {close[0]}?"
    said = said_bool(value)
    if said is not None and {"on", "off"} <= set(words):
        return f"did you mean {'on' if said else 'off'}?"
    off = next((word for word in ("none", "off", "disabled") if value is False and word in words), None)
    return f"did you mean {off}?" if off is not None else None


def _number(option: Option, value: JsonValue) -> str | None:
    if isinstance(value, bool):
        return "remove the line to leave it to the server" if value is False else None
    if isinstance(value, str):
        return _number_text(option, value.strip())
    assert isinstance(value, (int, float))
    if option.type is Type.INT and isinstance(value, float) and math.isfinite(value) and value == int(value):
        return f"write {int(value)}"
    if option.maximum == 1 and 5 <= value <= 100:
        return f"did you mean {value / 100:g}?"
    return None


def _number_text(option: Option, text: str) -> str | None:
    close = get_close_matches(text.lower(), option.words, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    if size := _SIZE.fullmatch(text):
        short = size[1] + size[2].lower()
        if option.pattern is not None and re.fullmatch(option.pattern, short):
            return f"write {short}"
        return f"write {int(float(size[1]) * FACTORS[size[2].upper()])}"
    if _GROUPED.fullmatch(text):
        return f"write {re.sub(r'[,_ ]', '', text)}"
    if option.type is Type.FLOAT and (percent := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", text)):
        return f"did you mean {float(percent[1]) / 100:g}?"
    if option.type is Type.FLOAT and (comma := re.fullmatch(r"(\d+),(\d+)", text)):
        return f"did you mean {comma[1]}.{comma[2]}?"
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,15}", text) and option.type is Type.INT:
        return f"write {int(text, 16)}"
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return _number(option, number) or (f"write {number:.15g}" if option.type is Type.FLOAT else None)


def broken_json(text: str) -> tuple[str, str | None] | None:
    """Where a text stops being JSON and what to do about it, without repeating the text; None for sound JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        place = f"character {error.colno}" if error.lineno == 1 else f"line {error.lineno}, character {error.colno}"
        cure = next((cure for sign, cure in _NEARLY_JSON if text[error.pos :].lstrip().startswith(sign)), None)
        return f"it breaks at {place}: {error.msg[:1].lower()}{error.msg[1:]}", cure
    except (ValueError, RecursionError):
        return "it is nested too deep", None
    return None


def for_a_list(option: Option, value: JsonValue) -> str | None:
    """What to write where a list stands and one value is wanted."""
    if (
        isinstance(value, list)
        and len(value) == 1
        and option.kind is Kind.VALUE
        and not isinstance(value[0], (dict, list))
    ):
        return None if option.secret else f"write {value[0]} without the brackets"
    return None
