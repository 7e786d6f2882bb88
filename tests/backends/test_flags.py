"""The law of the renderer and the parser: for every option of every vocabulary, render then parse is the identity."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import JsonValue

from reconciler.backends._argv import read_argv
from reconciler.backends._flags import option_words, render_options, resolve
from reconciler.backends._schema import value_schema
from reconciler.backends._values import ValueProblem
from reconciler.backends._vocabulary import Kind, Option, Syntax, Type, Vocabulary, load

BACKENDS = ("vllm", "llama_cpp", "mlx_lm", "simulator")
EVERY_OPTION = [(name, option.name) for name in BACKENDS for option in load(name)]

PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
TEXT = PRINTABLE | st.sampled_from(
    ["", "a b", "-x", "--", "-1", "-0.5", "a=b", "--a=b", "'q'", '"', "$(id)", "`id`", "*", "a;b|c&", "é"]
)
JSON_SCALAR: st.SearchStrategy[JsonValue] = (
    st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE
    | st.none()
)
JSON_MAPPING: st.SearchStrategy[JsonValue] = st.dictionaries(
    PRINTABLE,
    st.recursive(
        JSON_SCALAR,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PRINTABLE, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
).map(lambda mapping: dict(mapping))


def one(option: Option) -> st.SearchStrategy[JsonValue]:
    """Canonical values of one item: what the parser itself would write into a file."""
    if option.choices:
        return st.sampled_from([*option.choices, *option.words])
    words: st.SearchStrategy[JsonValue] = st.sampled_from(option.words) if option.words else st.nothing()
    match option.type:
        case Type.INT:
            return words | st.integers(-(10**12), 10**12)
        case Type.FLOAT:
            return words | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000)
        case Type.JSON:
            return JSON_MAPPING
        case Type.ANY:
            return st.integers(0, 9) | st.sampled_from(["0,1", "word", "-x"])
        case Type.STR | Type.BOOL:
            return TEXT.filter(lambda text: "${" not in text)


def canonical(option: Option, syntax: Syntax) -> st.SearchStrategy[JsonValue]:
    """Canonical values of a whole option."""
    item = one(option)
    match option.kind:
        case Kind.SWITCH:
            return st.booleans() if option.negative else st.just(True)
        case Kind.VALUE:
            return item
        case Kind.COMMA:
            plain = item.filter(lambda value: not (isinstance(value, str) and ("," in value or '"' in value)))
            return plain | st.lists(plain, min_size=2, max_size=4)
        case Kind.TUPLE:
            return st.lists(item, min_size=option.count, max_size=option.count)
        case Kind.LIST:
            return st.lists(
                item.filter(lambda value: not str(value).startswith("-")), min_size=1, max_size=3
            ) | st.lists(item, min_size=1, max_size=1)
        case Kind.APPEND:
            return st.lists(item, min_size=1, max_size=3)


def back(vocabulary: Vocabulary, argv: tuple[str, ...]) -> dict[str, JsonValue]:
    reading = read_argv(vocabulary, argv)
    assert reading.extra == []
    return reading.options


@pytest.mark.parametrize(("backend", "name"), EVERY_OPTION)
def test_every_option_comes_back_from_argv_as_it_went_in(backend: str, name: str) -> None:
    vocabulary = load(backend)
    option = vocabulary[name]
    schema = Draft202012Validator(value_schema(option))

    @settings(max_examples=25, deadline=None, database=None)
    @given(canonical(option, vocabulary.syntax))
    def law(value: JsonValue) -> None:
        argv = render_options(vocabulary, {name: value})
        assert argv, "a given value is emitted"
        assert back(vocabulary, argv) == {name: value}
        assert schema.is_valid(value), "the schema takes what the renderer takes"

    law()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whole_option_sets_come_back_and_order_does_not_matter(data: st.DataObject) -> None:
    vocabulary = load(data.draw(st.sampled_from(BACKENDS)))
    names = data.draw(st.lists(st.sampled_from([option.name for option in vocabulary]), unique=True, max_size=12))
    options = {name: data.draw(canonical(vocabulary[name], vocabulary.syntax)) for name in names}
    argv = render_options(vocabulary, options)
    assert back(vocabulary, argv) == options
    shuffled = {name: options[name] for name in data.draw(st.permutations(names))}
    assert render_options(vocabulary, shuffled) == argv


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
