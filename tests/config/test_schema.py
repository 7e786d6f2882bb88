"""The schemas for editors: true to the loader, true to the repository's copy, and exact about which option is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from reconciler.backends import discover
from reconciler.config._tree import plain
from reconciler.config.document import parse
from reconciler.config.schema import SCHEMA_PATH, file_schema, schema_text, structure_schema
from reconciler.core.spec import AuthSpec, BackendsSpec, InstanceSpec, ServerSpec
from tests.config.fakes import BACKENDS, fleet, one

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(file_schema(BACKENDS))


def data(text: str) -> Any:
    return plain(parse(text.encode(), name="f").root)


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = json.loads((ROOT / SCHEMA_PATH).read_text(encoding="utf-8"))
    generated = json.loads(schema_text(discover()))
    assert committed == generated, f"run: llamactl schema > {SCHEMA_PATH}"


def test_the_schemas_are_valid_schemas() -> None:
    Draft202012Validator.check_schema(structure_schema(BACKENDS))
    Draft202012Validator.check_schema(file_schema(BACKENDS))
    Draft202012Validator.check_schema(file_schema({}))


def test_every_reference_in_the_generated_schema_leads_somewhere() -> None:
    schema = file_schema(discover())
    references: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str):
                references.add(reference.removeprefix("#/$defs/"))
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(schema)
    assert references <= set(schema["$defs"])
    assert {f"options.{kind}" for kind in discover()} <= set(schema["$defs"])


@pytest.mark.parametrize("model", [ServerSpec, AuthSpec, BackendsSpec, InstanceSpec])
def test_every_setting_of_the_models_is_in_the_schema_with_a_description(model: type[BaseModel]) -> None:
    properties = structure_schema(["fake"])["$defs"][model.__name__]["properties"]
    assert set(properties) == set(model.model_fields)
    assert [name for name, setting in properties.items() if not setting.get("description")] == []


def test_every_key_of_the_file_says_what_it_is_and_what_it_takes() -> None:
    schema = file_schema(discover())
    bare: list[str] = []
    for name, definition in schema["$defs"].items():
        for key, setting in definition.get("properties", {}).items():
            takes = {"type", "anyOf", "enum", "allOf"} & setting.keys()
            if not name.startswith("inherits.") and not (setting.get("description") and takes):
                bare.append(f"{name}.{key}")
    assert bare == []


def test_defaults_are_shown_as_they_are_written() -> None:
    settings = file_schema({})["$defs"]["InstanceSpec"]["properties"]
    assert settings["on_demand_start_timeout"]["default"] == "10m"
    assert settings["replicas"]["default"] == 1
    assert [key for key, setting in settings.items() if setting.get("default", "") is None] == []
    assert file_schema({})["$defs"]["ServerSpec"]["properties"]["orphan_ttl"]["default"] == "1h"


@pytest.mark.parametrize(
    "text",
    [
        "instances:\n",
        "instances: {}\n",
        one(),
        one(
            more='replicas: "${N:-2}"\nstate: "${STATE:-running}"\nidle_timeout: "${IDLE:-5m}"\nenabled: "${ON:-true}"'
        ),
        one(more="x-note: [1]\nrestart: {x-why: because}\nenvironment:"),
        "x-top: 1\nserver: {x-a: 1, port: '${P:-1}'}\n" + one(),
        "defaults: {backend_type: fake, backend_options: {model: m}}\ninstances:\n  a:\n  b: {}\n  x-c: {backend_type: 1}\n",
        "auth: {management_keys: [{env: K}], inference_keys: [{value: 0123456789012345678901, instances: [a]}]}\n"
        + one(),
    ],
)
def test_what_the_loader_takes_the_schema_takes(text: str, validator: Draft202012Validator) -> None:
    text = text.replace("0123456789012345678901", "k123456789012345678901")
    fleet(text, {"K": "x" * 30})
    assert [error.message for error in validator.iter_errors(data(text))] == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (one(more="stat: running"), ["instances", "a"]),
        (one(more="replicas: 0"), ["instances", "a", "replicas"]),
        (one(more="idle_timeout: 5"), ["instances", "a", "idle_timeout"]),
        (one(options="nonsense: 1"), ["instances", "a", "backend_options"]),
        (one(options="tensor-parallel-size: two"), ["instances", "a", "backend_options", "tensor-parallel-size"]),
        ("instances: {a: {backend_options: {}}}", ["instances", "a"]),
        ("instances: {a: {backend_type: nothing}}", ["instances", "a", "backend_type"]),
        ("instances: {a/b: {backend_type: fake}}", ["instances"]),
        ("sever: {port: 1}\ninstances: {}", []),
    ],
)
def test_what_the_loader_refuses_the_schema_refuses_at_the_same_place(
    text: str, path: list[str], validator: Draft202012Validator
) -> None:
    deepest: list[list[str | int]] = []

    def walk(errors: Any) -> None:
        for error in errors:
            deepest.append(list(error.absolute_path))
            walk(error.context or ())

    walk(validator.iter_errors(data(text)))
    assert path in deepest
