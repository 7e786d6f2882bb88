"""The JSON schema (2020-12) of ``backend_options``, from a vocabulary. It accepts what ``_values`` accepts, as far as a schema can say.

Every option stands under both spellings, underscores first; a string that holds ``${VAR}`` is accepted for anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from reconciler.backends._values import FALSE_TEXTS, FLOAT_TEXT, INT_TEXT, TRUE_TEXTS, expected
from reconciler.backends._vocabulary import Kind, Option, Syntax, Type, Vocabulary

_VARIABLE = r"\$\{"
_END = r"$(?!\n)"
"""The end of a text in every engine: Python's ``$`` lets a final line break pass."""
_CONTROL = r"\u0000-\u001f\u007f-\u009f"
NO_CONTROL = rf"^[^{_CONTROL}]*{_END}"
_NO_CONTROL_BUT_LINES = rf"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*{_END}"
_NO_COMMA = rf"^[^,{_CONTROL}]*{_END}|{_VARIABLE}"
HOST: Mapping[str, object] = {
    "anyOf": [
        {"type": "string", "pattern": rf"^[^,{_CONTROL}]+{_END}|{_VARIABLE}"},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 1},
    ]
}
"""One address, as ``_check.check_host`` takes it."""
PORT: Mapping[str, object] = {
    "type": ["string", "integer"],
    "minimum": 1,
    "maximum": 65535,
    "pattern": rf"^[0-9]{{1,5}}{_END}|{_VARIABLE}",
    "errorMessage": "expected a whole number from 1 to 65535",
}
"""A port to be pinned, as ``_check.check_port`` takes it."""

Schema = dict[str, Any]


@lru_cache(maxsize=16)
def options_schema(vocabulary: Vocabulary, leave: frozenset[str]) -> Mapping[str, object]:
    """The schema without the options in ``leave`` (those that an instance may not set)."""
    properties: Schema = {}
    for option in vocabulary:
        if option.name in leave or option.removed or option.exits or option.secret:
            continue
        schema = _described(vocabulary, option)
        for key in option.keys:
            if vocabulary.by_key(key) is option:  # a canonical name is never another option's further name
                properties[key] = schema
                properties[key.replace("_", "-")] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"backend_options of {vocabulary.backend}",
        "description": f"Options of {vocabulary.program} {vocabulary.version}, with dashes or underscores.",
        "type": "object",
        "properties": properties,
        "patternProperties": {"^x-": {}, **_dotted(vocabulary, leave)},
        "additionalProperties": False,
    }


def _dotted(vocabulary: Vocabulary, leave: frozenset[str]) -> Schema:
    if vocabulary.syntax is not Syntax.VLLM:
        return {}
    owners = [
        option
        for option in vocabulary
        if option.type is Type.JSON and option.kind is Kind.VALUE and option.name not in leave and not option.removed
    ]
    names = {spelling for option in owners for key in option.keys for spelling in (key, key.replace("_", "-"))}
    return {rf"^(?:{'|'.join(sorted(names))})(?:\.[^.]+)+$": {}} if names else {}


def _described(vocabulary: Vocabulary, option: Option) -> Schema:
    own = {"host": HOST, "port": PORT}.get(option.name)
    schema: Schema = {"description": describe(option), **(own or value_schema(option))}
    if option.default is not None and option.default != {}:
        schema["default"] = option.default
    if option.deprecated:
        schema["deprecated"] = True
        # a keyword of VS Code and the YAML language server, which show it and no longer offer the option
        schema["deprecationMessage"] = f"{vocabulary.program} {vocabulary.version} calls {option.flag} deprecated"
    return schema


def describe(option: Option) -> str:
    """One line for people: what it is, the server's own spellings, the group."""
    parts = [option.help[:1].upper() + option.help[1:] if option.help else ""]
    parts.append(" ".join([*option.flags, *option.negative]))
    if option.group:
        parts.append(f"({option.group})")
    return ". ".join(part for part in parts[:2] if part) + (f" {parts[2]}" if len(parts) > 2 else "")


def value_schema(option: Option) -> Schema:
    """What one option's value may be."""
    item = item_schema(option)
    match option.kind:
        case Kind.SWITCH:
            return _switch(option)
        case Kind.VALUE:
            return item
        case Kind.LIST | Kind.APPEND:
            alone = (
                _json(option, *(kind for kind in item["type"] if kind != "array")) if option.type is Type.JSON else item
            )
            return {"anyOf": [alone, {"type": "array", "items": item, "minItems": 1}]}
        case Kind.COMMA:
            items = item if option.choices or item.get("type") != "string" else {**item, "pattern": _NO_COMMA}
            return {"anyOf": [item, _comma_text(option), {"type": "array", "items": items, "minItems": 1}]}
        case Kind.TUPLE:
            return {"type": "array", "items": item, "minItems": option.count, "maxItems": option.count}


def _switch(option: Option) -> Schema:
    """Both answers, save where the server has no way to be told no."""
    only_on = not option.negative and option.default is True
    words = "|".join(TRUE_TEXTS if only_on else (*TRUE_TEXTS, *FALSE_TEXTS))
    schema: Schema = {
        "type": ["string", "boolean"],
        "pattern": f"^(?:{words}){_END}|{_VARIABLE}",
        "errorMessage": f"{option.flag} takes {'true alone' if only_on else 'true or false'}",
    }
    return {**schema, "not": {"const": False}} if only_on else schema


def item_schema(option: Option) -> Schema:
    """What one value of the option may be."""
    if option.choices:
        return _choices(option)
    match option.type:
        case Type.BOOL:
            return {"type": "boolean"}
        case Type.INT:
            return {"type": ["string", "integer"], **_limits(option), **_read(option, _texts(option, INT_TEXT))}
        case Type.FLOAT:
            return {"type": ["string", "number"], **_limits(option), **_read(option, _texts(option, FLOAT_TEXT))}
        case Type.ANY:
            return {"type": ["string", "number"], **_limits(option), "pattern": NO_CONTROL}
        case Type.STR:
            return {"type": "string", "pattern": _NO_CONTROL_BUT_LINES if option.multiline else NO_CONTROL}
        case Type.JSON:
            return _json(option, "object", "string") if option.mapping else _json(option, *_JSON_TYPES)


def _read(option: Option, texts: Sequence[str]) -> Schema:
    """The texts that the server reads itself, and what an editor says of any other."""
    return {
        "pattern": f"^(?:{'|'.join(texts)}){_END}|{_VARIABLE}",
        "errorMessage": f"{option.flag} takes {expected(option)}",
    }


_JSON_TYPES = ("object", "array", "number", "boolean", "string")


def _json(option: Option, *types: str) -> Schema:
    return {"type": list(types), "errorMessage": f"{option.flag} takes {expected(option)}"}


def _limits(option: Option) -> Schema:
    limits = {
        "minimum": option.minimum,
        "maximum": option.maximum,
        "exclusiveMinimum": option.above,
        "exclusiveMaximum": option.below,
    }
    return {name: value for name, value in limits.items() if value is not None and not option.doubted}


def _choices(option: Option) -> Schema:
    values: list[object] = list(option.choices)
    values.extend(str(choice) for choice in option.choices if not isinstance(choice, str))
    values.extend(option.words)
    if option.nullable:
        values.extend(("None", ""))
    if {"on", "off"} <= set(option.choices):
        values.extend((True, False))
    texts = {
        "type": "string",
        "pattern": _VARIABLE if option.pattern is None else f"^{option.pattern}{_END}|{_VARIABLE}",
    }
    return {"anyOf": [{"enum": values}, texts]}


def _texts(option: Option, number: str) -> list[str]:
    """The texts that are read as this number."""
    forms = [number, *option.words]
    if option.pattern is not None:
        forms.append(option.pattern)
    if option.nullable:
        forms.append("None|")
    return forms


def _comma_text(option: Option) -> Schema:
    """The list as one text. The server reads quoted items itself, so that anything may stand in them."""
    if option.choices:
        item = "|".join(re.escape(str(choice)) for choice in (*option.choices, *option.words))
    elif option.type in (Type.INT, Type.FLOAT):
        item = "|".join(_texts(option, INT_TEXT if option.type is Type.INT else FLOAT_TEXT))
    else:
        return {"type": "string", "pattern": NO_CONTROL}
    text = rf"^(?:{item})(?:,(?:{item}))*{_END}|^[^{_CONTROL}]*\"[^{_CONTROL}]*{_END}|{_VARIABLE}"
    return {
        "type": "string",
        "pattern": text,
        "errorMessage": f"{option.flag} takes {expected(option)}, separated by commas",
    }
