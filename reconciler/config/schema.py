"""The file's shape as JSON schema (2020-12), generated from the models and from what each backend says of its options.

``structure_schema`` is what the loader checks with, after variables are expanded; ``file_schema`` is the same for editors, with the
options of every backend, ``x-*`` keys and ``${VAR}`` texts let through (a backend's schema lets them through by itself). Both come
from one builder, so they cannot drift.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from reconciler.core.contracts import Backend
from reconciler.core.spec import NAME_PATTERN, AuthSpec, BackendsSpec, InstanceSpec, ServerSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_PATH = "schemas/llamactl.schema.json"
"""Where the generated schema is kept in the repository; ``llamactl schema`` prints the same text."""

Schema = dict[str, Any]
"""A JSON schema is open-ended by nature: any JSON value by key."""

_VARIABLE = {"type": "string", "pattern": r"\$\{"}
_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("server", ServerSpec),
    ("auth", AuthSpec),
    ("backends", BackendsSpec),
)


def structure_schema(kinds: Iterable[str]) -> Schema:
    """The whole file's shape, with ``backend_options`` as any mapping: each backend checks its own."""
    definitions: Schema = {}
    properties: Schema = {}
    for name, model in _SECTIONS:
        definitions.update(_model(model))
        properties[name] = _or_nothing({"$ref": f"#/$defs/{model.__name__}"})
    definitions.update(_model(InstanceSpec))
    instance = definitions["InstanceSpec"]
    instance.pop("required", None)  # backend_type may come from defaults
    instance["properties"]["backend_type"]["enum"] = sorted(kinds)
    for name, setting in instance["properties"].items():
        if setting.get("type") == "object" or _is_table(setting.get("$ref", ""), definitions):
            instance["properties"][name] = _or_nothing(setting)
    definitions["DefaultsSpec"] = {**instance, "description": "Any instance setting; an instance's own wins."}
    properties["defaults"] = _or_nothing({"$ref": "#/$defs/DefaultsSpec"})
    properties["instances"] = _or_nothing(
        {
            "type": "object",
            "description": "What should run, by name. A key without a value means none.",
            "propertyNames": {"pattern": NAME_PATTERN},
            "additionalProperties": _or_nothing({"$ref": "#/$defs/InstanceSpec"}),
        }
    )
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
    """The schema for editors and CI, with the options of every given backend. Deterministic: the same input, the same text."""
    allowed: Schema = _let_through(structure_schema(backends))
    definitions: Schema = allowed["$defs"]
    branches: list[Schema] = []
    for kind in sorted(backends):
        definitions[f"options.{kind}"] = _embedded(kind, backends[kind].options_schema(), definitions)
        branches.append(
            {
                "if": {"properties": {"backend_type": {"const": kind}}, "required": ["backend_type"]},
                "then": {"properties": {"backend_options": _or_nothing({"$ref": f"#/$defs/options.{kind}"})}},
            }
        )
    if branches:
        definitions["InstanceSpec"]["allOf"] = branches
    # an instance needs its backend_type unless defaults give one
    allowed["if"] = {
        "properties": {"defaults": {"type": "object", "required": ["backend_type"]}},
        "required": ["defaults"],
    }
    needs_type = {"type": "object", "required": ["backend_type"]}
    allowed["else"] = {
        "properties": {"instances": {"patternProperties": {"^x-": True}, "additionalProperties": needs_type}},
    }
    return allowed


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
    """Without the titles and the defaults in seconds that only repeat names or contradict how a duration is written."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    drop = {"title"} if isinstance(value.get("title"), str) else set()
    if isinstance(value.get("default"), float):
        drop.add("default")
    return {key: _tidy(item) for key, item in value.items() if key not in drop}


def _is_table(reference: str, definitions: Schema) -> bool:
    definition: Schema = definitions.get(reference.rpartition("/")[2], {})
    return definition.get("type") == "object"


def _or_nothing(schema: Schema) -> Schema:
    """A key whose value was commented out means an empty one."""
    description = {"description": schema["description"]} if "description" in schema else {}
    return {**description, "anyOf": [schema, {"type": "null"}]}


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
    changed: Schema = _each(schema, rename)
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
    """``${VAR}`` where a scalar is expected, ``x-*`` wherever keys are closed or have a shape."""

    def allow(item: Schema) -> Schema:
        if item.get("type") == "object" and item.get("additionalProperties") not in (None, True):
            item["patternProperties"] = {**item.get("patternProperties", {}), "^x-": True}
        narrow = any(key in item for key in ("pattern", "enum", "const", "minLength", "maxLength", "format"))
        kinds = item.get("type")
        is_number = kinds in ("integer", "number", "boolean")
        is_listed = isinstance(kinds, list) and "string" not in kinds and not {"object", "array"} & set(kinds)
        if is_number or is_listed or ((kinds == "string" or "enum" in item) and narrow):
            outer: Schema = {key: item.pop(key) for key in ("description", "default", "examples") if key in item}
            return {**outer, "anyOf": [item, _VARIABLE]}
        return item

    return _each(schema, allow, skip=("if", "propertyNames"))
