"""The file's shape as JSON schema (2020-12), generated from the models and from what each backend says of its options.

``structure_schema`` is what the loader checks with, after variables are expanded; ``file_schema`` is the same for editors, with the
options of every backend, ``x-*`` keys and ``${VAR}`` texts let through (a backend's schema lets them through by itself). Both come
from one builder, so they cannot drift. What no schema can say is :data:`LOADER_ONLY`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from reconciler.core.contracts import Backend
from reconciler.core.spec import (
    DURATION_PATTERN,
    NAME_PATTERN,
    AuthSpec,
    BackendsSpec,
    InstanceSpec,
    KeySource,
    ServerSpec,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_PATH = "schemas/llamactl.schema.json"
"""Where the generated schema is kept in the repository; ``llamactl schema`` prints the same text."""

LOADER_ONLY: Mapping[str, str] = {
    "text": "what is wrong before a text is data: encoding, YAML syntax, duplicate keys, tags, dates, control characters, "
    "numbers beyond 64 bits, aliases to nothing, limits on size",
    "whole": "a whole number written with a fraction (`2.0`), which JSON Schema counts as whole",
    "variables": "variables that are not set, texts that do not fit once variables are replaced, and everything below a "
    "backend_type that is a variable",
    "spellings": "one option under two spellings",
    "defaults": "options in `defaults` that reach an instance of another backend_type, or have no backend_type beside them",
    "durations": "durations above ten years, and `0s` where there must be a pause",
    "names": "names that differ by case only, aliases that are empty, given twice or another instance's name",
    "keys": "whether a key has exactly one source, can be read, stands twice, or names instances that are not declared",
    "ports": "ports that are pinned twice, for several replicas, in two places or as the daemon's own; ranges that are none",
    "hosts": "addresses beside loopback that server.allow_backend_hosts does not list, and urls that name no host",
    "commands": "quotes that are not closed in an executable, extra_args that clash with options or are llamactl's to give, "
    "and settings that a backend_type has no use for",
    "rules": "rules between options, and options without which a backend_type cannot start",
    "values": "texts that the server reads itself: JSON written as text, numbers beyond a limit written as text, "
    "words of a list that would read as flags",
}
"""What only the loader can know, by name: everything else it refuses, an editor with the schema marks too."""

Schema = dict[str, Any]
"""A JSON schema is open-ended by nature: any JSON value by key."""

_VARIABLE = r"\$\{"
_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("server", ServerSpec),
    ("auth", AuthSpec),
    ("backends", BackendsSpec),
)
_TABLE_OR_NOTHING = ["object", "null"]
"""A key whose value was commented out means an empty mapping."""


def structure_schema(kinds: Iterable[str]) -> Schema:
    """The whole file's shape, with ``backend_options`` as any mapping: each backend checks its own."""
    definitions: Schema = {}
    properties: Schema = {}
    for name, model in _SECTIONS:
        definitions.update(_model(model))
        properties[name] = {"$ref": f"#/$defs/{model.__name__}"}
    definitions.update(_model(InstanceSpec))
    instance = definitions["InstanceSpec"]
    instance.pop("required", None)  # backend_type may come from defaults
    instance["properties"]["backend_type"]["enum"] = sorted(kinds)
    for setting in instance["properties"].values():
        table = definitions.get(setting.get("$ref", "").rpartition("/")[2], setting)
        if table.get("type") == "object":
            table["type"] = _TABLE_OR_NOTHING
    for name in ("ServerSpec", "AuthSpec", "BackendsSpec", "InstanceSpec"):
        definitions[name]["type"] = _TABLE_OR_NOTHING
    definitions["DefaultsSpec"] = {**instance, "description": "Any instance setting; an instance's own wins."}
    properties["defaults"] = {"$ref": "#/$defs/DefaultsSpec"}
    properties["instances"] = {
        "type": _TABLE_OR_NOTHING,
        "description": "What should run, by name. A key without a value means none.",
        "propertyNames": {"pattern": NAME_PATTERN},
        "additionalProperties": {"$ref": "#/$defs/InstanceSpec"},
    }
    return {
        "$schema": DIALECT,
        "title": "llamactl.yaml",
        "description": "LLM servers that should run on this host.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def file_schema(backends: Mapping[str, Backend]) -> Schema:
    """The schema for editors and CI, with the options of every given backend. Deterministic: the same input, the same text.

    Options hang on ``backend_type`` by ``if`` and ``then``, in an instance, in ``defaults`` and for instances that have it from
    there, so that a branch that was not chosen is never looked at and never blamed.
    """
    allowed: Schema = _let_through(structure_schema(backends))
    definitions: Schema = allowed["$defs"]
    summaries: list[str] = []
    chosen: list[Schema] = []
    inherited: list[Schema] = []
    for kind in sorted(backends):
        options = _embedded(kind, backends[kind].options_schema(), definitions)
        summaries.append(options.get("description", ""))
        definitions[f"options.{kind}"] = options
        takes_options = {"properties": {"backend_options": {"$ref": f"#/$defs/options.{kind}"}}}
        is_kind = {"type": "object", "properties": {"backend_type": {"const": kind}}, "required": ["backend_type"]}
        chosen.append({"if": is_kind, "then": takes_options})
        definitions[f"inherits.{kind}"] = {"if": {"required": ["backend_type"]}, "else": takes_options}
        inherited.append(
            {
                "if": {"properties": {"defaults": is_kind}, "required": ["defaults"]},
                "then": {"properties": {"instances": _each_instance({"$ref": f"#/$defs/inherits.{kind}"})}},
            }
        )
    for name in ("InstanceSpec", "DefaultsSpec"):
        kinds = definitions[name]["properties"]["backend_type"]["anyOf"][0]
        kinds["enumDescriptions"] = summaries
        if chosen:
            definitions[name]["allOf"] = chosen
    # an instance needs its backend_type unless defaults give one
    allowed["if"] = {
        "properties": {"defaults": {"type": "object", "required": ["backend_type"]}},
        "required": ["defaults"],
    }
    allowed["else"] = {
        "properties": {"instances": _each_instance({"type": "object", "required": ["backend_type"]})},
    }
    if inherited:
        allowed["allOf"] = inherited
    allowed["$comment"] = "Not said here, and checked by `llamactl validate`: " + "; ".join(LOADER_ONLY.values()) + "."
    return allowed


def _each_instance(schema: Schema) -> Schema:
    return {"patternProperties": {"^x-": True}, "additionalProperties": schema}


def schema_text(backends: Mapping[str, Backend]) -> str:
    """:func:`file_schema` as it is written to :data:`SCHEMA_PATH`."""
    return as_text(file_schema(backends))


def as_text(schema: Mapping[str, Any]) -> str:
    """A schema as text: keys sorted, so that a diff shows what changed and nothing else."""
    return json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _model(model: type[BaseModel]) -> Schema:
    """A model and what it refers to, by name."""
    schema = model.model_json_schema(mode="validation")
    definitions: Schema = schema.pop("$defs", {})
    definitions[model.__name__] = schema
    return {name: _tidy(definition) for name, definition in definitions.items()}


def _tidy(value: Any) -> Any:
    """Without titles that repeat names and defaults that say nothing; durations in the words in which they are written."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {key: _tidy(item) for key, item in value.items() if key != "title" or not isinstance(item, str)}
    if tidy.get("default", "") is None:
        del tidy["default"]
    elif isinstance(tidy.get("default"), float) and tidy.get("pattern") == DURATION_PATTERN:
        tidy["default"] = duration_text(tidy["default"])
    return tidy


def duration_text(seconds: float) -> str:
    """Whole seconds as a duration is written, in the largest unit that leaves no rest: ``90s``, ``10m``, ``1h``."""
    whole = int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole and whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def _embedded(kind: str, options: Mapping[str, object], definitions: Schema) -> Schema:
    """A backend's own schema with its ``$defs`` moved beside ours, under the kind's name."""
    schema: Schema = json.loads(json.dumps(options))

    def rename(item: Schema) -> Schema:
        reference = item.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            item["$ref"] = f"#/$defs/options.{kind}.{reference.removeprefix('#/$defs/')}"
        return item

    own = schema.pop("$defs", {})
    schema.pop("$schema", None)
    schema.pop("$id", None)
    for name, definition in own.items():
        definitions[f"options.{kind}.{name}"] = _each(definition, rename)
    schema.pop("required", None)  # defaults may give them: `rules` of what only the loader knows
    changed: Schema = _each(schema, rename)
    changed["type"] = _TABLE_OR_NOTHING
    return changed


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


def _each(schema: Any, change: Callable[[Schema], Schema], skip: tuple[str, ...] = ()) -> Any:
    """Every subschema, innermost first, through ``change``; never mistakes an example or a default for one."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key, value in schema.items():
        if key in skip:
            continue
        if key in _BY_NAME and isinstance(value, dict):
            result[key] = {name: _each(item, change, skip) for name, item in value.items()}
        elif key in _ONE:
            result[key] = _each(value, change, skip)
        elif key in _MANY and isinstance(value, list):
            result[key] = [_each(item, change, skip) for item in value]
    return change(result)


def _let_through(schema: Schema) -> Any:
    """``${VAR}`` where a scalar is expected, ``x-*`` wherever keys are closed or have a shape; and words for editors to say."""

    def allow(item: Schema) -> Schema:
        kinds = item.get("type")
        is_table = kinds == "object" or (isinstance(kinds, list) and "object" in kinds)
        if is_table and item.get("additionalProperties") not in (None, True):
            item["patternProperties"] = {**item.get("patternProperties", {}), "^x-": True}
            if "propertyNames" in item:
                item["propertyNames"] = {**_whole_text("^x-|" + item["propertyNames"]["pattern"]), **_says(_NAMES)}
        if "enum" in item:
            outer: Schema = {key: item.pop(key) for key in ("description", "default", "examples") if key in item}
            return {**outer, "anyOf": [item, {"type": "string", "pattern": _VARIABLE}]}
        if kinds in ("integer", "number", "boolean"):
            return {**item, "type": [kinds, "string"], "pattern": _VARIABLE, **_says(in_words(item))}
        if "pattern" in item:
            return {**item, **_whole_text(f"{item['pattern']}|{_VARIABLE}"), **_says(in_words(item))}
        return item

    return _each(schema, allow, skip=("if", "propertyNames"))


def _whole_text(pattern: str) -> Schema:
    """A pattern whose ``$`` is the end of the text in every engine; Python's lets a final line break pass."""
    return {"pattern": pattern.replace("$", "$(?!\\n)").replace("\\$(?!\\n)", "\\$")}


def _says(words: str) -> Schema:
    """What an editor says in place of the pattern (the YAML language server and VS Code know the keyword)."""
    return {"patternErrorMessage": f"expected {words}"}


_NAMES = "letters, digits, `.`, `_` and `-`, up to 63, first a letter or digit; any other name can be an alias"
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
