"""What users are told about a change: every field that differs, no secret."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.core.changes import field_changes, leaf_path
from reconciler.core.spec import InstanceSpec


def spec(**settings: Any) -> InstanceSpec:
    return InstanceSpec.model_validate({"backend_type": "vllm", **settings})


def told(before: InstanceSpec, after: InstanceSpec) -> list[str]:
    return [str(change) for change in field_changes(before, after)]


def test_a_changed_option_is_told_with_both_values() -> None:
    before = spec(backend_options={"max_model_len": 4096})
    assert told(before, spec(backend_options={"max_model_len": 8192})) == ["max_model_len 4096 -> 8192"]


def test_both_spellings_of_an_option_are_one_option() -> None:
    assert told(spec(backend_options={"max-model-len": 1}), spec(backend_options={"max_model_len": 1})) == []


def test_added_and_removed_fields_are_told() -> None:
    before, after = spec(backend_options={"a": 1}), spec(backend_options={"b": [1, 2]})
    assert told(before, after) == ["a removed", "b [1, 2] added"]


def test_environment_values_and_secrets_are_never_shown_but_their_change_is() -> None:
    before = spec(environment={"HF_TOKEN": "hf_one"}, backend_options={"api-key": "one", "x": "1"})
    after = spec(environment={"HF_TOKEN": "hf_two"}, backend_options={"api-key": "two", "x": "1"})
    shown = told(before, after)
    assert shown == ["api_key changed", "environment.HF_TOKEN changed"]


def test_numbers_of_tokens_are_no_secrets() -> None:
    before = spec(backend_options={"max_num_batched_tokens": 1, "token_delay_ms": 2})
    after = spec(backend_options={"max_num_batched_tokens": 3, "token_delay_ms": 4})
    assert told(before, after) == ["max_num_batched_tokens 1 -> 3", "token_delay_ms 2 -> 4"]


def test_a_long_value_is_cut() -> None:
    shown = told(spec(labels={"note": "a"}), spec(labels={"note": "b" * 500}))
    assert len(shown[0]) < 100


def test_what_came_from_a_variable_is_never_shown_and_its_change_is_told() -> None:
    options = {"hf-overrides": {"a": {"b": "one"}}, "dtype": "x"}
    before = spec(extra_args=["--call-log", "/tmp/one"], backend_options=options)
    now = {"hf_overrides": {"a": {"b": "two"}}, "dtype": "y"}
    after = spec(extra_args=["--call-log", "/tmp/two"], backend_options=now)
    marks = [leaf_path(("extra_args", 1)), leaf_path(("backend_options", "hf-overrides", "a", "b"))]
    assert told(before.marked(marks), after.marked(marks)) == [
        "dtype x -> y",
        "hf_overrides.a.b changed",
        "extra_args changed",
    ]
    assert told(before, after.marked(marks))[2] == 'extra_args ["--call-log", "/tmp/one"] -> (hidden)'


def test_where_variables_stood_is_no_part_of_a_declaration() -> None:
    plain, marked = spec(labels={"a": "b"}), spec(labels={"a": "b"}).marked(["labels.a"])
    assert plain == marked
    assert plain.model_dump() == marked.model_dump()
    assert plain.model_json_schema() == marked.model_json_schema()
    assert "expanded" not in str(plain.model_json_schema())
    assert marked.expanded == {"labels.a"}


@pytest.mark.parametrize("shape", ["--api-key={}", "https://user:{}@host/x", "HF_TOKEN={}"])
def test_a_secret_inside_a_value_is_starred(shape: str) -> None:
    before, after = spec(extra_args=[shape.format("ab1")]), spec(extra_args=[shape.format("ab2"), "--api-key", "ab3"])
    shown = "".join(told(before, after))
    assert "extra_args" in shown
    assert "ab" not in shown
