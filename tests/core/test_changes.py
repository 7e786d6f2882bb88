"""What users are told about a change: every field that differs, no secret."""

from __future__ import annotations

from typing import Any

from reconciler.core.changes import field_changes
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
