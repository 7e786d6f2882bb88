"""The JSON schema (2020-12) of ``backend_options``, from a vocabulary. It accepts what ``_values`` accepts, as far as a schema can say.

Every option stands under both spellings, underscores first; a string that holds ``${VAR}`` is accepted for anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from reconciler.backends._values import FALSE_TEXTS, FLOAT_TEXT, INT_TEXT, TRUE_TEXTS
from reconciler.backends._vocabulary import Kind, Option, Syntax, Type, Vocabulary

_VARIABLE = r"\$\{"
_NO_CONTROL = r"^[^\u0000-\u001f\u007f-\u009f]*$"
_NO_CONTROL_BUT_LINES = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"

Schema = dict[str, Any]


@lru_cache(maxsize=16)
def options_schema(vocabulary: Vocabulary, leave: frozenset[str]) -> Mapping[str, object]:
    """The schema without the options in ``leave`` (those that an instance may not set)."""
    properties: Schema = {}
    dashed: Schema = {}
    for option in vocabulary:
        if option.name in leave or option.removed or option.exits or option.secret:
            continue
        for at, key in enumerate(option.keys):
            properties[key] = _described(vocabulary, option, canonical=at == 0)
            if "_" in key:
                dashed[key.replace("_", "-")] = _described(vocabulary, option, canonical=False)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"backend_options of {vocabulary.backend}",
        "description": f"Options of {vocabulary.program} {vocabulary.version}, with dashes or underscores.",
        "type": "object",
        "properties": {**properties, **dashed},
        "patternProperties": {"^x-": {}, **_dotted(vocabulary)},
        "additionalProperties": False,
    }


def _dotted(vocabulary: Vocabulary) -> Schema:
    if vocabulary.syntax is not Syntax.VLLM:
        return {}
    owners = [option for option in vocabulary if option.type is Type.JSON and option.kind is Kind.VALUE]
    names = {spelling for option in owners for key in option.keys for spelling in (key, key.replace("_", "-"))}
    return {rf"^(?:{'|'.join(sorted(names))})(?:\.[^.]+)+$": {}}


def _described(vocabulary: Vocabulary, option: Option, *, canonical: bool) -> Schema:
    schema = {"description": describe(option), **value_schema(option)}
    if option.default is not None and canonical:
        schema["default"] = option.default
    if option.deprecated:
        schema["deprecated"] = True
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
            words = "|".join((*TRUE_TEXTS, *FALSE_TEXTS))
            return {"type": ["boolean", "string"], "pattern": f"^(?:{words})$|{_VARIABLE}"}
        case Kind.VALUE:
            return item
        case Kind.LIST | Kind.APPEND:
            return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}
        case Kind.COMMA:
            text = {"type": "string", "pattern": _NO_CONTROL}
            return {"anyOf": [item, text, {"type": "array", "items": item, "minItems": 1}]}
        case Kind.TUPLE:
            return {"type": "array", "items": item, "minItems": option.count, "maxItems": option.count}


def item_schema(option: Option) -> Schema:
    """What one value of the option may be."""
    if option.choices:
        return _choices(option)
    match option.type:
        case Type.BOOL:
            return {"type": "boolean"}
        case Type.INT:
            return {"type": ["integer", "string"], "pattern": _texts(option, INT_TEXT)}
        case Type.FLOAT:
            return {"type": ["number", "string"], "pattern": _texts(option, FLOAT_TEXT)}
        case Type.ANY:
            return {"type": ["string", "number"], "pattern": _NO_CONTROL}
        case Type.STR:
            return {"type": "string", "pattern": _NO_CONTROL_BUT_LINES if option.multiline else _NO_CONTROL}
        case Type.JSON:
            return {"type": ["object", "array", "number", "boolean", "string"]}


def _choices(option: Option) -> Schema:
    values: list[object] = list(option.choices)
    values.extend(str(choice) for choice in option.choices if not isinstance(choice, str))
    values.extend(option.words)
    if option.nullable:
        values.extend(("None", ""))
    if {"on", "off"} <= set(option.choices):
        values.extend((True, False))
    return {"anyOf": [{"enum": values}, {"type": "string", "pattern": _VARIABLE}]}


def _texts(option: Option, number: str) -> str:
    """The texts that are read as this number."""
    forms = [number, *(re.escape(word) for word in option.words)]
    if option.pattern is not None:
        forms.append(option.pattern)
    if option.nullable:
        forms.append("None|")
    return f"^(?:{'|'.join(forms)})$|{_VARIABLE}"
