"""Values for every option, for the laws of renderer and parser, and what each value means.

``canonical`` draws what the parser itself would write into a file, ``free`` what a person may write for the same. ``meaning``
says what the server is to be told by a value, by rules of its own, so that the laws do not lean on the code they judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st
from pydantic import JsonValue

from reconciler.backends._vocabulary import Kind, Option, Syntax, Type

ODD_TEXTS = (
    "", " ", "a b", " a", "a ", "-x", "--", "-", "-1", "-0.5", "--seed", "--seed=1", "-ngl", "-O3", "a=b", "=", "--a=b",
    "'q'", '"', "it's \"q\"", "\\", "a\\ b", "$(id)", "$HOME", "`id`", "*", "~", "!x", "a;b|c&d>e<f", "#c", "é", "模型",
    "\N{SLIGHTLY SMILING FACE}", "a,b", "{}", "[1]", "{x", "null", "true", "no", "0", "1e3", "0x10", "None", "auto", "http://h:1/p?q=1#f",
    "%s", "a:b", "@file", "serve", "docker", "A=1",
)  # fmt: skip
LINES = ("a\nb", "{% if x %}\n\t'{{ x }}'\n{% endif %}\n", "\n", "\ttab", "#\n-x\n", "a\\\nb")
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
INTS = (
    st.integers(-(10**12), 10**12)
    | st.integers(-5, 5)
    | st.sampled_from([2**31 - 1, -(2**31), 2**63, -(2**63) - 1, 10**30])
)
FLOATS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-1000, 1000)
    | st.sampled_from([0.0, -0.0, 0.5, -0.5, 1e-7, 1e22, 5e-324, 1.7976931348623157e308, -1e-300, 10**17])
)
JSON_SCALAR: st.SearchStrategy[JsonValue] = (
    st.booleans()
    | INTS
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE
    | st.sampled_from(ODD_TEXTS)
    | st.sampled_from(LINES)
    | st.none()
)
JSON_DEEP: st.SearchStrategy[JsonValue] = st.recursive(
    JSON_SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PRINTABLE, inner, max_size=3), max_leaves=6
)
JSON_MAPPING: st.SearchStrategy[JsonValue] = st.dictionaries(
    PRINTABLE | st.sampled_from(["a.b", "a+", "--x", "", "a b"]), JSON_DEEP, max_size=3
).map(lambda mapping: dict(mapping))


def one(option: Option) -> st.SearchStrategy[JsonValue]:
    """Canonical values of one item."""
    if option.choices:
        return st.sampled_from([*option.choices, *option.words])
    words: st.SearchStrategy[JsonValue] = st.sampled_from(option.words) if option.words else st.nothing()
    bounded = any(edge is not None for edge in (option.minimum, option.maximum, option.above, option.below))
    match option.type:
        case Type.INT:
            return words | (_ints(option) if bounded else INTS) | _sizes(option)
        case Type.FLOAT:
            return words | (_floats(option) if bounded else FLOATS)
        case Type.JSON:
            if option.text or option.mapping:
                return JSON_MAPPING
            return JSON_MAPPING | st.lists(JSON_SCALAR, max_size=3) | INTS | st.booleans()
        case Type.ANY:
            return st.integers(0, 9) | st.sampled_from(["0,1", "word", "-x", "007", "1e3"])
        case Type.STR | Type.BOOL:
            text = PRINTABLE | st.sampled_from(ODD_TEXTS)
            return text | st.sampled_from(LINES) if option.multiline else text


def _ints(option: Option) -> st.SearchStrategy[JsonValue]:
    least = option.minimum if option.minimum is not None else None if option.above is None else option.above + 1
    most = option.maximum if option.maximum is not None else None if option.below is None else option.below - 1
    low, high = (None if edge is None else int(edge) for edge in (least, most))
    return st.integers(low, high) | st.sampled_from([edge for edge in (low, high) if edge is not None])


def _floats(option: Option) -> st.SearchStrategy[JsonValue]:
    low = option.minimum if option.minimum is not None else option.above
    high = option.maximum if option.maximum is not None else option.below
    return st.floats(
        low,
        high,
        allow_nan=False,
        allow_infinity=False,
        exclude_min=option.above is not None,
        exclude_max=option.below is not None,
    )


def _sizes(option: Option) -> st.SearchStrategy[JsonValue]:
    texts = [
        text
        for text in ("32k", "1.5m", "4K", "2G", "2GB", "500 MB", "1T")
        if option.pattern and re.fullmatch(option.pattern, text)
    ]
    return st.sampled_from(texts) if texts else st.nothing()


def canonical(option: Option, syntax: Syntax) -> st.SearchStrategy[JsonValue]:
    """Canonical values of a whole option."""
    item = one(option)
    if syntax is not Syntax.LLAMA:
        item = item.filter(lambda value: value != "--")
    match option.kind:
        case Kind.SWITCH:
            return st.booleans() if option.negative else st.just(True)
        case Kind.VALUE:
            return item
        case Kind.COMMA:
            plain = item.filter(lambda value: not (isinstance(value, str) and ("," in value or '"' in value)))
            return plain | st.lists(plain, min_size=2, max_size=4)
        case Kind.TUPLE:
            return st.lists(item, min_size=option.count, max_size=option.count)
        case Kind.LIST:
            good = item.filter(lambda value: not re.match(r"-(?!\d+$)", str(value)))
            return st.lists(good, min_size=1, max_size=3) | st.lists(item, min_size=1, max_size=1)
        case Kind.APPEND:
            return st.lists(item, min_size=1, max_size=3)


def free(option: Option, syntax: Syntax) -> st.SearchStrategy[JsonValue]:
    """What a person may write: numbers as text, a scalar for a list, JSON as text, ``true`` as text."""
    exact = canonical(option, syntax)
    if option.kind is Kind.SWITCH:
        return exact | exact.map(lambda value: str(value).lower())
    if option.many and option.kind is not Kind.TUPLE:
        return exact | exact.filter(lambda value: isinstance(value, list)).map(_alone)
    if option.type is Type.JSON:
        return exact | exact.map(lambda value: json.dumps(value, indent=1))
    if option.type in (Type.INT, Type.FLOAT) and option.kind is Kind.VALUE:
        return exact | exact.map(str)
    return exact


def _alone(values: JsonValue) -> JsonValue:
    return values[0] if isinstance(values, list) else values


def meaning(option: Option, value: JsonValue) -> object:
    """What the server is told; None where it is told nothing."""
    match option.kind:
        case Kind.SWITCH:
            on = value is True or value == "true"
            return True if on else (False if option.negative else None)
        case Kind.VALUE:
            return item_meaning(option, value)
        case Kind.COMMA:
            parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
            return tuple(item_meaning(option, part) for part in parts)
        case Kind.LIST | Kind.APPEND | Kind.TUPLE:
            return tuple(item_meaning(option, part) for part in (value if isinstance(value, list) else [value]))


def item_meaning(option: Option, value: JsonValue) -> object:
    """What one item says: numbers by worth, JSON by content, all else by its text."""
    if option.type is Type.JSON:
        if isinstance(value, str) and not (option.text and not re.fullmatch(r"(?s)\s*\{.*\}\s*", value)):
            try:
                return frozen(json.loads(value))
            except ValueError:
                return ("text", value)
        return ("text", value) if isinstance(value, str) else frozen(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    text = value if isinstance(value, str) else str(value)
    if option.type in (Type.INT, Type.FLOAT):
        try:
            return int(text) if option.type is Type.INT else float(text)
        except ValueError:
            return text
    return text


def frozen(value: object) -> object:
    """Plain data that can be compared without ``1 == True``."""
    if isinstance(value, Mapping):
        return (
            ("mapping", tuple(sorted((str(key), frozen(inner)) for key, inner in value.items())))
            if value
            else ("mapping", ())
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ("list", tuple(frozen(inner) for inner in value))
    return (type(value).__name__, repr(value))
