"""The file's shape as JSON schema (2020-12), generated from the models and from what each backend says of its options.

``structure_schema`` is what the loader checks with, after variables are expanded; ``file_schema`` is the same for editors, with the
options of every backend, ``x-*`` keys and ``${VAR}`` texts let through (a backend's schema lets them through by itself). Both come
from one builder, so they cannot drift. What no schema can say is :data:`LOADER_ONLY`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from reconciler.config._editor import VARIABLE_NAME, Schema, each, let_through
from reconciler.core.contracts import Backend
from reconciler.core.spec import DURATION_PATTERN, NAME_PATTERN, AuthSpec, BackendsSpec, InstanceSpec, ServerSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_PATH = "schemas/llamactl.schema.json"
"""Where the generated schema is kept in the repository; ``llamactl schema`` prints the same text."""
SCHEMA_NAME = "llamactl.schema.json"
"""Of the schema beside a user's file."""
MODELINE = f"# yaml-language-server: $schema={SCHEMA_NAME}\n"
"""First line of a file that has its schema beside it: by it an editor completes and checks. Without the schema it would be an error."""
EDITOR_HINT = f"# For completion in your editor: llamactl schema -o {SCHEMA_NAME}, then take one # off the next line.\n#{MODELINE}"
"""What a file begins with that has none: how to come by it. Editors pass over a modeline behind a second ``#``."""

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

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("server", ServerSpec),
    ("auth", AuthSpec),
    ("backends", BackendsSpec),
)
_KNOWN_ABOVE = {"doNotSuggest": True}
"""For a key that is described elsewhere too: the YAML language server would offer it twice."""
_TABLE_OR_NOTHING = ["object", "null"]
"""A key whose value was commented out means an empty mapping."""


def structure_schema(kinds: Iterable[str]) -> Schema:
    """The whole file's shape, with ``backend_options`` as any mapping: each backend checks its own."""
    definitions: Schema = {}
    properties: Schema = {}
    for name, model in _SECTIONS:
        definitions.update(_model(model))
        properties[name] = _section(model.__name__, definitions)
    definitions.update(_model(InstanceSpec))
    settings = definitions["InstanceSpec"]["properties"]
    settings["backend_type"]["enum"] = sorted(kinds)
    for name, setting in settings.items():
        if "$ref" in setting:
            settings[name] = _section(setting["$ref"].rpartition("/")[2], definitions, setting)
        elif setting.get("type") == "object":
            setting["type"] = _TABLE_OR_NOTHING
    definitions["InstanceSpec"].pop("required", None)  # backend_type may come from defaults
    definitions["DefaultsSpec"] = {
        **definitions["InstanceSpec"],
        "description": "Any instance setting; an instance's own wins.",
    }
    properties["defaults"] = _section("DefaultsSpec", definitions)
    properties["instances"] = {
        "type": _TABLE_OR_NOTHING,
        "description": "What should run, by name. A key without a value means none.",
        "propertyNames": {"pattern": NAME_PATTERN},
        "additionalProperties": _section("InstanceSpec", definitions),
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


def _section(name: str, definitions: Schema, setting: Schema | None = None) -> Schema:
    """A key that takes what a definition says: a mapping of known keys, or a choice.

    A mapping's type stands here and its keys are behind ``allOf``, because an editor that completes a key writes out whatever
    properties stand beside the type, with all their defaults. A choice is put in place, because editors show what a definition
    says of itself rather than what is said beside the reference to it.
    """
    told = {key: value for key, value in (setting or {}).items() if key != "$ref"}
    table = definitions[name]
    if "properties" not in table:
        return {**definitions.pop(name), **told}
    table.pop("type", None)
    return {
        "type": _TABLE_OR_NOTHING,
        "description": table["description"],
        **told,
        "allOf": [{"$ref": f"#/$defs/{name}"}],
    }


def file_schema(backends: Mapping[str, Backend]) -> Schema:
    """The schema for editors and CI, with the options of every given backend. Deterministic: the same input, the same text.

    Options hang on ``backend_type`` by ``if`` and ``then``, in an instance, in ``defaults`` and for instances that have it from
    there, so that a branch that was not chosen is never looked at and never blamed.
    """
    structure = structure_schema(backends)
    for name in ("BackendsSpec", "InstanceSpec", "DefaultsSpec"):
        structure["$defs"][name]["properties"]["environment"]["propertyNames"] = {"pattern": VARIABLE_NAME}
    allowed: Schema = let_through(structure)
    definitions: Schema = allowed["$defs"]
    summaries: list[str] = []
    chosen: list[Schema] = []
    inherited: list[Schema] = []
    for kind in sorted(backends):
        options = _embedded(kind, backends[kind].options_schema(), definitions)
        summaries.append(options.get("description", ""))
        definitions[f"options.{kind}"] = {**options, **_KNOWN_ABOVE}
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
    return {"patternProperties": {"^x-": True}, "additionalProperties": schema, **_KNOWN_ABOVE}


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
    tidy: Schema = {key: _tidy(item) for key, item in value.items() if key != "title" or not isinstance(item, str)}
    match tidy.get("anyOf"):
        case [
            {"type": str() as kind} as only,
            {"type": "null"},
        ]:  # one leaf, so that a mistake has one place and one cause
            del tidy["anyOf"]
            tidy = {**only, **tidy, "type": [kind, "null"]}
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
        definitions[f"options.{kind}.{name}"] = each(definition, rename)
    schema.pop("required", None)  # defaults may give them: `rules` of what only the loader knows
    changed: Schema = each(schema, rename)
    del changed["type"]  # said by the setting itself
    return changed
