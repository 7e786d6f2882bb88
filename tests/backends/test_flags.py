"""Options to argv, by example: spellings, golden argv, wrong values and wrong keys. The laws are in ``test_roundtrip``."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from reconciler.backends._flags import option_words, render_options, resolve
from reconciler.backends._values import ValueProblem
from reconciler.backends._vocabulary import load

BACKENDS = ("vllm", "llama_cpp", "mlx_lm", "simulator")
EVERY_OPTION = [(name, option.name) for name in BACKENDS for option in load(name)]


@pytest.mark.parametrize(("backend", "name"), EVERY_OPTION)
def test_every_spelling_finds_its_option(backend: str, name: str) -> None:
    vocabulary = load(backend)
    option = vocabulary[name]
    for key in option.keys:
        assert vocabulary.by_key(key) is option
        assert vocabulary.by_key(key.replace("_", "-")) is option
    for flag in option.flags:
        assert vocabulary.by_flag(flag) == (option, True)
    for flag in option.negative:
        assert vocabulary.by_flag(flag) == (option, False)


def test_the_vocabularies_hold_every_option_of_their_version() -> None:
    assert {name: len(load(name).options) for name in BACKENDS} == {
        "vllm": 317,  # the 318th of vLLM 0.32 is the positional model
        "llama_cpp": 255,
        "mlx_lm": 27,
        "simulator": 18,
    }
    for name in BACKENDS:
        flags = [flag for option in load(name) for flag in (*option.flags, *option.negative)]
        assert len(flags) == len(set(flags))


def test_absent_false_zero_and_empty_are_four_different_things() -> None:
    vocabulary = load("vllm")
    assert render_options(vocabulary, {}) == ()
    assert render_options(vocabulary, {"enable_prefix_caching": False}) == ("--no-enable-prefix-caching",)
    assert render_options(vocabulary, {"seed": 0}) == ("--seed", "0")
    assert render_options(vocabulary, {"tool_parser_plugin": ""}) == ("--tool-parser-plugin", "")
    assert render_options(vocabulary, {"headless": False}) == (), "off is the default and there is no negative form"


@pytest.mark.parametrize(
    ("backend", "options", "argv"),
    [
        ("vllm", {"served_model_name": ["a", "b c"]}, ("--served-model-name", "a", "b c")),
        ("vllm", {"served-model-name": "a"}, ("--served-model-name", "a")),
        ("vllm", {"middleware": ["m.a", "m.b"]}, ("--middleware", "m.a", "--middleware", "m.b")),
        ("vllm", {"seed": -1}, ("--seed=-1",)),
        ("vllm", {"device_memory_utilization": 0.5}, ("--gpu-memory-utilization", "0.5")),
        ("vllm", {"hf_overrides": {"b": [1, None], "a": "x y"}}, ("--hf-overrides", '{"a":"x y","b":[1,null]}')),
        (
            "vllm",
            {"speculative-config.model": "d", "speculative_config": {"n": 1}},
            ("--speculative-config", '{"model":"d","n":1}'),
        ),
        (
            "vllm",
            {"compilation_config.a.b": 1, "compilation_config.a.c": 2},
            ("--compilation-config", '{"a":{"b":1,"c":2}}'),
        ),
        ("vllm", {"max_model_len": "32k"}, ("--max-model-len", "32k")),
        ("vllm", {"tensor_parallel_size": "2"}, ("--tensor-parallel-size", "2")),
        ("vllm", {"enforce_eager": "true"}, ("--enforce-eager",)),
        (
            "vllm",
            {"lora_modules": ["a=/x", {"name": "b", "path": "/y"}]},
            ("--lora-modules", "a=/x", '{"name":"b","path":"/y"}'),
        ),
        ("llama_cpp", {"seed": -1}, ("--seed", "-1")),
        ("llama_cpp", {"gpu_layers": "all"}, ("--gpu-layers", "all")),
        ("llama_cpp", {"n-gpu-layers": 99}, ("--gpu-layers", "99")),
        ("llama_cpp", {"control_vector_layer_range": [1, 5]}, ("--control-vector-layer-range", "1", "5")),
        ("llama_cpp", {"tensor_split": [3, 1]}, ("--tensor-split", "3,1")),
        ("llama_cpp", {"tensor_split": "3,1"}, ("--tensor-split", "3,1")),
        ("llama_cpp", {"flash_attn": True}, ("--flash-attn", "on")),
        ("llama_cpp", {"kv_offload": False}, ("--no-kv-offload",)),
        ("llama_cpp", {"no_host": True}, ("--no-host",)),
        ("llama_cpp", {"mmproj-auto": False}, ("--no-mmproj",)),
        ("mlx_lm", {"prompt_cache_bytes": "2GB"}, ("--prompt-cache-bytes", "2GB")),
        (
            "mlx_lm",
            {"chat_template_args": {"enable_thinking": False}},
            ("--chat-template-args", '{"enable_thinking":false}'),
        ),
    ],
)
def test_golden_argv(backend: str, options: dict[str, JsonValue], argv: tuple[str, ...]) -> None:
    assert render_options(load(backend), options) == argv


@pytest.mark.parametrize(
    ("backend", "name", "value", "says"),
    [
        ("vllm", "tensor_parallel_size", "two", "a whole number"),
        ("vllm", "tensor_parallel_size", 1.5, "a whole number"),
        ("vllm", "tensor_parallel_size", True, "a whole number"),
        ("vllm", "gpu_memory_utilization", "lots", "a number"),
        ("vllm", "gpu_memory_utilization", float("inf"), "a number"),
        ("vllm", "dtype", "float15", "one of auto"),
        ("vllm", "enforce_eager", "yes", "true or false"),
        ("vllm", "enforce_eager", 1, "true or false"),
        ("vllm", "revision", 12, "text"),
        ("vllm", "model", ["a"], "one value"),
        ("vllm", "seed", None, "no value"),
        ("vllm", "served_model_name", [], "at least one"),
        ("vllm", "served_model_name", ["a", "-b"], "reads as a flag"),
        ("vllm", "speculative_config", "{not json", "JSON"),
        ("vllm", "model", "a\nb", "cannot be passed on"),
        ("llama_cpp", "control_vector_layer_range", [1], "takes 2 values"),
        ("llama_cpp", "lora", ["a,b"], "joined by commas"),
        ("llama_cpp", "cache_type_k", "q4", "one of f32"),
        ("simulator", "personality", "ollama", "one of vllm"),
    ],
)
def test_a_wrong_value_says_what_the_option_takes(backend: str, name: str, value: JsonValue, says: str) -> None:
    vocabulary = load(backend)
    with pytest.raises(ValueProblem, match=says):
        option_words(vocabulary.syntax, vocabulary[name], value)


@pytest.mark.parametrize(
    ("backend", "options", "key", "hint"),
    [
        ("vllm", {"tensor_paralel_size": 1}, "tensor_paralel_size", "tensor_parallel_size"),
        ("vllm", {"tensor-paralel-size": 1}, "tensor-paralel-size", "tensor-parallel-size"),
        ("vllm", {"no_enforce_eager": True}, "no_enforce_eager", "enforce_eager: false"),
        ("vllm", {"--seed": 1}, "--seed", "write seed"),
        ("vllm", {"task": "embed"}, "task", "runner"),
        ("vllm", {"seed.x": 1}, "seed.x", None),
        ("vllm", {"seed": 1, "--seed": 1}, "--seed", "write seed"),
        ("vllm", {"max_model_len": 1, "max-model-len": 1}, "max-model-len", "keep one"),
        (
            "vllm",
            {"gpu_memory_utilization": 1, "device-memory-utilization": 1},
            "device-memory-utilization",
            "keep one",
        ),
        ("vllm", {"kv_transfer_config": {"a": 1}, "kv-transfer-config.a": 2}, "kv-transfer-config.a", "keep one"),
        ("llama_cpp", {"ngl": 99}, "ngl", "gpu_layers"),
        ("llama_cpp", {"no_mmap": True}, "no_mmap", "load_mode: none"),
        ("llama_cpp", {"no-kv-offload": True}, "no-kv-offload", "kv_offload: false"),
    ],
)
def test_a_wrong_key_is_named_with_its_cure(
    backend: str, options: dict[str, JsonValue], key: str, hint: str | None
) -> None:
    _, problems = resolve(load(backend), options)
    assert [problem.path for problem in problems] == [("backend_options", key)]
    if hint is not None:
        assert hint in (problems[0].hint or "")
