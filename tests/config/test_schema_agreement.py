"""The generated schema and the loader accept and reject the same files, but for what ``LOADER_ONLY`` lists; and a mistake has one place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema.exceptions import ValidationError

from reconciler.backends import discover
from reconciler.backends._vocabulary import load
from reconciler.config._tree import plain
from reconciler.config.document import parse
from reconciler.config.load import load_text
from reconciler.config.schema import LOADER_ONLY, file_schema
from reconciler.core.errors import Rejected
from tests.config.agreement import (
    ENVIRON,
    ROOT,
    VALUES,
    VOCABULARIES,
    WORDS,
    Spoiled,
    disagreement,
    examples,
    good_value,
    kinds_of,
    places,
    refused,
    rich,
    settable,
    spoiled,
    validator,
)

DOCUMENTS = {**examples(), **rich()}
PLACES = [(name, path) for name, document in DOCUMENTS.items() for path in places(document)]


@st.composite
def mutants(draw: st.DrawFn) -> Spoiled:
    """One document with one change, anywhere."""
    name, path = draw(st.sampled_from(PLACES))
    return draw(st.sampled_from(list(spoiled(DOCUMENTS[name], path))))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_documents_that_are_spoiled_are_right_to_begin_with(name: str) -> None:
    assert refused(DOCUMENTS[name]) == ()
    assert [error.message for error in validator().iter_errors(DOCUMENTS[name])] == []


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutants())
def test_schema_and_loader_judge_a_spoiled_file_alike(one: Spoiled) -> None:
    assert disagreement(one) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_schema_and_loader_judge_every_spoiled_file_alike(name: str) -> None:
    document = DOCUMENTS[name]
    found = [disagreement(one) for path in places(document) for one in spoiled(document, path)]
    assert [why for why in found if why is not None][:5] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", VOCABULARIES)
def test_schema_and_loader_judge_every_value_of_every_option_alike(kind: str) -> None:
    found = [
        disagreement(Spoiled(f"{key}: {value!r}", _instance(kind, {"model": "m", key: value})))
        for option in load(kind)
        for key in {spelling for name in option.keys for spelling in (name, name.replace("_", "-"))}
        for value in (VALUES if key == option.name else VALUES[::7])
    ]
    assert [why for why in found if why is not None][:5] == []


def _instance(kind: str, options: dict[str, Any]) -> Any:
    return {"instances": {"a": {"backend_type": kind, "backend_options": options}}}


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_every_option_is_taken_under_every_spelling(kind: str) -> None:
    for again in (False, True):
        for dashes in (False, True):
            options = {
                name.replace("_", "-") if dashes else name: good_value(option, again=again)
                for name, option in settable(kind)
            }
            assert [error.message for error in validator().iter_errors(_instance(kind, options))] == []


WITNESSES: dict[str, str] = {
    "text": "instances: {}\ninstances: {}\n",
    "whole": "instances: {a: {backend_type: vllm, backend_options: {model: m, tensor_parallel_size: 2.0}}}",
    "variables": "instances: {a: {backend_type: vllm, backend_options: {model: m, max_model_len: '${UNSET}'}}}",
    "spellings": "instances: {a: {backend_type: vllm, backend_options: {model: m, max_model_len: 1, max-model-len: 1}}}",
    "defaults": "defaults: {backend_options: {dtype: half}}\ninstances: {a: {backend_type: mlx_lm, backend_options: {model: m}}}",
    "durations": "instances: {a: {backend_type: simulator, probe: {interval: 0s}}}",
    "names": "instances: {a: {backend_type: simulator}, b: {backend_type: simulator, aliases: [a]}}",
    "keys": "auth: {management_keys: [{env: NOT_THERE}]}\ninstances: {}",
    "ports": "instances: {a: {backend_type: simulator, port: 9000}, b: {backend_type: simulator, port: 9000}}",
    "hosts": "instances: {a: {backend_type: vllm, backend_options: {model: m, host: 10.0.0.1}}}",
    "commands": "instances: {a: {backend_type: vllm, backend_options: {model: m}, extra_args: [--port, '1']}}",
    "rules": "instances: {a: {backend_type: vllm}}",
    "values": "instances: {a: {backend_type: vllm, backend_options: {model: m, kv_transfer_config: '{'}}}",
}
"""For each thing that only the loader knows, the shortest file that shows it."""


@pytest.mark.parametrize("name", LOADER_ONLY)
def test_what_only_the_loader_knows_is_refused_by_it_and_not_by_the_schema(name: str) -> None:
    text = WITNESSES[name].encode()
    with pytest.raises(Rejected) as refusal:
        load_text(text, name="f.yaml", backends=discover(), environ=ENVIRON, root=ROOT / "f.yaml")
    if name == "text":
        assert len(refusal.value.problems) == 1
        return  # it never becomes data
    document = plain(parse(text, name="f.yaml").root)
    assert [error.message for error in validator().iter_errors(document)] == []
    assert all(name in kinds_of(problem, document) for problem in refusal.value.problems)


def test_the_list_of_what_only_the_loader_knows_is_whole() -> None:
    assert WITNESSES.keys() == LOADER_ONLY.keys() == {*WORDS, "text", "defaults"}
    assert all(sentence in file_schema({})["$comment"] for sentence in LOADER_ONLY.values())
    told = (ROOT / "reconciler" / "ARCHITECTURE.md").read_text()
    assert all(f"`{name}`" in told for name in LOADER_ONLY)


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_a_typo_in_one_option_is_one_mistake_and_names_the_right_backend(kind: str) -> None:
    errors = list(validator().iter_errors(_instance(kind, {"model": "m", "modle": "m"})))
    assert [list(error.absolute_path) for error in errors] == [["instances", "a", "backend_options"]]
    assert "'modle'" in errors[0].message
    assert _title(errors[0]) == f"backend_options of {kind}"


def _title(error: ValidationError) -> str:
    return str(error.schema.get("title", "")) if isinstance(error.schema, dict) else ""


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"model": "m", "dtype": "half16"}, "dtype"),
        ({"model": "m", "gpu-memory-utilization": "much"}, "gpu-memory-utilization"),
        ({"model": "m", "tensor_parallel_size": [1]}, "tensor_parallel_size"),
        ({"model": "m", "trust_remote_code": "yes"}, "trust_remote_code"),
    ],
)
def test_a_wrong_value_is_one_mistake_at_its_option(options: dict[str, Any], key: str) -> None:
    errors = list(validator().iter_errors(_instance("vllm", options)))
    assert [list(error.absolute_path) for error in errors] == [["instances", "a", "backend_options", key]]


def test_a_mistake_in_an_instance_that_has_its_kind_from_defaults_is_found_there() -> None:
    document = {
        "defaults": {"backend_type": "mlx_lm"},
        "instances": {"a": {"backend_options": {"model": "m", "nothing": 1}}},
    }
    errors = list(validator().iter_errors(document))
    assert [list(error.absolute_path) for error in errors] == [["instances", "a", "backend_options"]]


def test_wrong_options_in_defaults_are_refused_even_when_no_instance_takes_them() -> None:
    problems = refused(
        {"defaults": {"backend_type": "vllm", "backend_options": {"dtyp": "half", "port": 0}}, "instances": None}
    )
    assert [problem.path for problem in problems] == ["defaults.backend_options.dtyp", "defaults.backend_options.port"]


def test_a_rule_between_options_is_not_asked_of_defaults_alone() -> None:
    options = {"enable_log_outputs": True}
    assert refused({"defaults": {"backend_type": "vllm", "backend_options": options}, "instances": {}}) == ()
