"""Rules between options: each is told before the start, at the option it is about, and never where it is not certain."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from reconciler.backends._check import check_options
from reconciler.backends._flags import render_options
from reconciler.backends._merge import merged
from reconciler.backends._rules import visible_devices
from reconciler.backends._schema import options_schema
from reconciler.backends._vocabulary import Vocabulary, load
from reconciler.core.spec import BackendsSpec
from tests.backends.broken import LLAMA_CPP, MLX_LM, VLLM, Broken
from tests.backends.samples import backend, check, errors, spec

EVERY = [
    (kind, case) for kind, cases in (("vllm", VLLM), ("llama_cpp", LLAMA_CPP), ("mlx_lm", MLX_LM)) for case in cases
]


@pytest.mark.parametrize(("kind", "case"), EVERY)
def test_a_broken_rule_is_told_at_its_option(kind: str, case: Broken) -> None:
    (problem,) = check(kind, {"model": "m", **case.options})
    assert problem.path == ("backend_options", case.at)
    assert problem.warning is case.warning
    assert problem.hint
    assert "{" not in problem.message, "every number is filled in"


@pytest.mark.parametrize(("kind", "case"), EVERY)
def test_the_mended_options_are_silent(kind: str, case: Broken) -> None:
    assert check(kind, {"model": "m", **case.mended}) == ()


def test_every_rule_of_every_vocabulary_has_an_example() -> None:
    for kind in ("vllm", "llama_cpp", "mlx_lm"):
        subjects = {rule.option for rule in load(kind).rules}
        shown = {name for of, case in EVERY if of == kind for name in case.options}
        assert subjects <= shown


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({"enable_auto_tool_choice": True}, ["--tool-call-parser=hermes"]),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, ["--max-num-batched-tokens", "4096"]),
        ({"max_num_seqs": 100000}, []),
        ({"max_num_seqs": 1000, "max_num_batched_tokens": "2k"}, []),
        ({"long_prefill_token_threshold": 999999, "max_model_len": "auto"}, []),
        ({"long_prefill_token_threshold": 999999, "max_model_len": -1}, []),
        ({"max_loras": 4, "max_cpu_loras": 2}, []),
        ({"enable_log_outputs": "false"}, []),
        ({"spec_tokens": 2, "speculative_config": "None"}, []),
        ({"enable_auto_tool_choice": True}, ["--tool-call-pars=hermes"]),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, ["--max_num_batched_tokens", "4096"]),
        # a condition that extra_args may change: chunked prefill is what the rule about the batch depends on
        (
            {"enable_chunked_prefill": False, "max_model_len": 512, "max_num_batched_tokens": 256},
            ["--enable-chunked-prefill"],
        ),
    ],
)
def test_what_is_not_certain_is_not_told(options: dict[str, JsonValue], extra: list[str]) -> None:
    assert not errors(check("vllm", {"model": "m", **options}, extra_args=extra))


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({"cache_type_v": "q8_0", "flash_attn": "off"}, ["-fa", "on"]),
        ({"cache_type_v": "q8_0", "flash_attn": "off"}, ["-ctv", "f16"]),
    ],
)
def test_a_value_that_extra_args_may_change_breaks_no_rule(options: dict[str, JsonValue], extra: list[str]) -> None:
    assert len(errors(check("llama_cpp", {"model": "m", **options}))) == 1
    assert not errors(check("llama_cpp", {"model": "m", **options}, extra_args=extra))


def test_a_rule_is_silent_about_a_value_that_is_itself_wrong() -> None:
    (problem,) = check("vllm", {"model": "m", "tensor_parallel_size": 1.5, "decode_context_parallel_size": 2})
    assert "takes a whole number" in problem.message


def test_another_version_is_only_warned_by_the_rules_of_this_one() -> None:
    rule = {"option": "a", "needs": ["b", "c"], "severity": "error", "message": "m", "hint": "h"}
    switches = [{"name": name, "flags": [f"--{name}"], "kind": "switch", "type": "bool"} for name in "abc"]
    table = {"backend": "x", "version": "2", "program": "x", "syntax": "vllm", "options": switches}
    notes = {"options": {}, "gone": {}, "rules": [rule]}
    own = Vocabulary.from_json(merged(table, notes))
    other = Vocabulary.from_json(merged(table, notes, {**table, "version": "1"}))
    assert [one.warning for one in (*own.rules, *other.rules)] == [False, True]
    assert own.rules[0].needs == ("b", "c")
    lacking = {**table, "options": switches[:2]}
    assert Vocabulary.from_json(merged(lacking, notes)).rules == (), (
        "a rule about an option that is not there is left out"
    )


def test_the_limits_of_this_version_only_warn_another() -> None:
    number = {"name": "a", "flags": ["--a"], "kind": "value", "type": "float"}
    own_limit = {"name": "b", "flags": ["--b"], "kind": "value", "type": "int", "minimum": 3}
    table = {"backend": "x", "version": "2", "program": "x", "syntax": "vllm", "options": [number, own_limit]}
    notes = {"options": {"a": {"above": 0, "maximum": 1}, "b": {"minimum": 5}}, "gone": {}, "rules": []}
    vocabularies = [
        Vocabulary.from_json(merged(table, notes, packaged))
        for packaged in (None, {**table}, {**table, "version": "1"})
    ]
    for vocabulary, warned in zip(vocabularies, (False, False, True), strict=True):
        instance = spec("vllm", {"a": 50})
        _, (problem,) = check_options(vocabulary, instance, allow_hosts=frozenset(), refused={})
        assert (problem.warning, problem.message) == (warned, "a takes a number above 0 and at most 1, not 50")
        _, (wrong,) = check_options(vocabulary, spec("vllm", {"a": "x"}), allow_hosts=frozenset(), refused={})
        assert not wrong.warning, "what is no number at all is refused by any version"
        _, (low,) = check_options(vocabulary, spec("vllm", {"b": 2}), allow_hosts=frozenset(), refused={})
        assert not low.warning, "what the program itself told holds"
        assert ("maximum" in str(options_schema(vocabulary, frozenset()))) is not warned
    assert render_options(vocabularies[2], {"a": 50}) == ("--a", "50")


GPUS = {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize(
    ("options", "environment", "wants"),
    [
        ({"tensor_parallel_size": 4}, GPUS, 4),
        ({"tensor-parallel-size": "4"}, GPUS, 4),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, GPUS, 4),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2}, GPUS, 4),
        ({"data_parallel_size": 8, "data_parallel_size_local": 4}, GPUS, 4),
        ({"tensor_parallel_size": 2}, {"ROCR_VISIBLE_DEVICES": "3"}, 2),
        ({"tensor_parallel_size": 2}, {"CUDA_VISIBLE_DEVICES": "0,1", "HIP_VISIBLE_DEVICES": "0"}, 2),
        ({"tensor_parallel_size": 2}, GPUS, None),
        ({"tensor_parallel_size": 4}, {}, None),
        ({"tensor_parallel_size": 4}, {"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"tensor_parallel_size": 4}, {"CUDA_VISIBLE_DEVICES": None}, None),
        ({"tensor_parallel_size": 4, "distributed_executor_backend": "ray"}, GPUS, None),
        ({"tensor_parallel_size": 4, "nnodes": 2}, GPUS, None),
        ({"data_parallel_size": 8, "data_parallel_rank": 3}, GPUS, None),
        ({"tensor_parallel_size": 2, "data_parallel_size": 2, "data_parallel_backend": "ray"}, GPUS, None),
    ],
)
def test_parallel_sizes_fit_the_gpus_that_are_shown(
    options: dict[str, JsonValue], environment: dict[str, str | None], wants: int | None
) -> None:
    problems = check("vllm", {"model": "m", **options}, environment=environment)
    assert len(problems) == (wants is not None)
    if wants is not None:
        assert f"wants {wants} GPUs" in problems[0].message
        assert problems[0].path == ("backend_options", next(iter(options)))


@pytest.mark.parametrize(
    ("instance", "section", "wants"),
    [
        ({}, GPUS, True),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, GPUS, False),
        ({"CUDA_VISIBLE_DEVICES": None}, GPUS, False),
        (GPUS, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, True),
    ],
)
def test_the_gpus_are_those_that_the_process_is_shown(
    instance: dict[str, str | None], section: dict[str, str], wants: bool
) -> None:
    one = spec("vllm", {"model": "m", "tensor_parallel_size": 4}, environment=instance)
    assert len(backend("vllm").check(one, backends=BackendsSpec(environment=section))) == wants


def test_only_a_plain_list_of_devices_is_counted() -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "GPU-1a, MIG-2b"}) == ("CUDA_VISIBLE_DEVICES", 2)
    for text in ("", "-1", "0,,1", "${GPUS}", "0,-1"):
        assert visible_devices({"CUDA_VISIBLE_DEVICES": text}) is None
