"""What makes a strict schema one for editors: ``${VAR}`` and ``x-*`` let through, patterns that every engine reads alike, and words.

The words are the ones in which the loader says what it expects, too. Nothing here knows backends, or which file the schema is of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reconciler.core.spec import DURATION_PATTERN, NAME_PATTERN, KeySource

Schema = dict[str, Any]
"""A JSON schema is open-ended by nature: any JSON value by key."""

VARIABLE = r"\$\{"
"""The pattern of a text that holds a variable."""
VARIABLE_NAME = "^[^=]+$"
"""The pattern of an environment variable's name."""

_BY_NAME = ("properties", "patternProperties", "$defs", "dependentSchemas")
_ONE = (
    "additionalProperties",
    "items",
    "contains",
    "propertyNames",
    "if",
    "then",
    "else",
    "not",
    "unevaluatedProperties",
)
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")


def each(schema: Any, change: Callable[[Schema], Schema], skip: tuple[str, ...] = ()) -> Any:
    """Every subschema, innermost first, through ``change``; never mistakes an example or a default for one."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key, value in schema.items():
        if key in skip:
            continue
        if key in _BY_NAME and isinstance(value, dict):
            result[key] = {name: each(item, change, skip) for name, item in value.items()}
        elif key in _ONE:
            result[key] = each(value, change, skip)
        elif key in _MANY and isinstance(value, list):
            result[key] = [each(item, change, skip) for item in value]
    return change(result)


def let_through(schema: Schema) -> Any:
    """``${VAR}`` where a scalar is expected, ``x-*`` wherever keys are closed or have a shape; and words for editors to say."""

    def allow(item: Schema) -> Schema:
        kinds = item.get("type")
        if item.get("additionalProperties") not in (None, True):
            item["patternProperties"] = {**item.get("patternProperties", {}), "^x-": True}
            if "propertyNames" in item:
                names = item["propertyNames"]["pattern"]
                item["propertyNames"] = {**_whole_text(f"^x-|{names}"), **_says(_NAME_WORDS[names])}
        if "enum" in item:
            outer: Schema = {key: item.pop(key) for key in ("description", "default", "examples") if key in item}
            return {**outer, "anyOf": [item, {"type": "string", "pattern": VARIABLE}]}
        names = kinds if isinstance(kinds, list) else [kinds]
        if {"integer", "number", "boolean"} & set(names):
            # text first: an editor that completes the key makes up a value of the first type, and 0 is often wrong
            return {**item, "type": ["string", *names], "pattern": VARIABLE, **_says(in_words(item))}
        if "pattern" in item:
            return {**item, **_whole_text(f"{item['pattern']}|{VARIABLE}"), **_says(in_words(item))}
        return item

    return each(schema, allow, skip=("if", "propertyNames"))


def _whole_text(pattern: str) -> Schema:
    """A pattern whose ``$`` is the end of the text in every engine; Python's lets a final line break pass."""
    return {"pattern": pattern.replace("$", "$(?!\\n)").replace("\\$(?!\\n)", "\\$")}


def _says(words: str) -> Schema:
    """What an editor says of a wrong type or text (a keyword of VS Code and the YAML language server)."""
    return {"errorMessage": f"expected {words}"}


_NAME_WORDS = {
    NAME_PATTERN: "letters, digits, `.`, `_` and `-`, up to 63, first a letter or digit; any other name can be an alias",
    VARIABLE_NAME: "the name of a variable, without `=`",
}
_KIND_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
}


def in_words(schema: Mapping[str, Any]) -> str:
    """What a schema without references or alternatives takes: ``a whole number from 1 to 64``."""
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    if schema.get("pattern") == DURATION_PATTERN:
        return "a duration such as 90s, 10m or 1h"
    kind = schema.get("type")
    text = _KIND_WORDS.get(str(kind[0] if isinstance(kind, list) else kind), "something else")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{text} from {low} to {high}"
    if low is not None or high is not None:
        return f"{text} of {low} or more" if low is not None else f"{text} of {high} or less"
    if schema.get("minLength"):
        return f"{text} that is not empty"
    if schema.get("pattern") in _PATTERN_WORDS:
        return _PATTERN_WORDS[schema["pattern"]]
    if "pattern" in schema:
        example = schema.get("examples", [None])[0] or schema.get("default")
        return f"{text} like {example}" if example else f"{text} of the form {schema['pattern']}"
    return text


_PATTERN_WORDS = {KeySource.model_json_schema()["properties"]["sha256"]["anyOf"][0]["pattern"]: "64 hexadecimal digits"}
"""Patterns that have a name."""
