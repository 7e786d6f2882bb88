"""Pasted command lines: understood as the server would read them, or refused with their place. Never executed, never dropped."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.backends import discover
from reconciler.backends._base import VocabularyBackend
from reconciler.backends._hide import looks_secret
from reconciler.backends._tokens import LONGEST_COMMAND, split
from reconciler.backends._wrappers import program_place
from reconciler.core.contracts import ParsedCommand
from reconciler.core.errors import Rejected
from reconciler.core.spec import NAME_PATTERN
from tests.backends.corpus import REFUSED, UNDERSTOOD, Options
from tests.backends.samples import NO_BACKENDS, backend, errors, spec


@pytest.mark.parametrize(("kind", "command", "options"), UNDERSTOOD)
def test_understood(kind: str, command: str, options: Options) -> None:
    parsed = backend(kind).parse(command)
    assert parsed.backend_options == options
    assert list(parsed.backend_options) == list(options), "in the order given"
    assert parsed.extra_args == ()
    assert parsed.backend_type == kind
    assert re.match(NAME_PATTERN, parsed.name)


WITHOUT_VARIABLES = [case for case in UNDERSTOOD if "${" not in str(case[2])]  # the loader expands those in between


@pytest.mark.parametrize(("kind", "command", "options"), WITHOUT_VARIABLES)
def test_parse_then_render_then_parse_is_a_fixed_point(kind: str, command: str, options: Options) -> None:
    instance = spec(kind, options)
    assert not errors(backend(kind).check(instance))
    launch = backend(kind).launch(instance, NO_BACKENDS)
    assert launch is not None
    again = backend(kind).parse(_quoted(launch.argv))
    assert again.backend_options == options
    second = backend(kind).launch(spec(kind, again.backend_options), NO_BACKENDS)
    assert second == launch


def _quoted(argv: tuple[str, ...]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in argv)


@pytest.mark.parametrize(("kind", "command", "line", "column", "says"), REFUSED)
def test_refused_with_its_place(kind: str, command: str, line: int, column: int, says: str) -> None:
    with pytest.raises(Rejected) as caught:
        backend(kind).parse(command)
    problem = caught.value.problems[0]
    assert (problem.line, problem.column) == (line, column), str(problem)
    assert says in problem.message
    assert problem.file is None


def test_host_port_and_keys_are_dropped_with_a_warning_that_never_shows_them() -> None:
    for kind, program in (
        ("vllm", "vllm serve m/x"),
        ("llama_cpp", "llama-server -m x"),
        ("mlx_lm", "mlx_lm.server --model x"),
    ):
        parsed = backend(kind).parse(f"{program} --host 0.0.0.0 --port 8000 --api-key sk-very-secret")
        assert set(parsed.backend_options) == {"model"}
        assert parsed.extra_args == ()
        text = " ".join(parsed.warnings)
        assert all(flag in text for flag in ("--host", "--port", "--api-key"))
        assert "sk-very-secret" not in repr(parsed)


def test_a_hub_token_becomes_a_variable() -> None:
    parsed = backend("vllm").parse("VLLM_API_KEY=k-1 vllm serve m/x --hf-token hf-secret")
    assert parsed.environment == {"HF_TOKEN": "${HF_TOKEN}"}
    assert "hf-secret" not in repr(parsed)
    assert "k-1" not in repr(parsed)


@pytest.mark.parametrize(
    ("command", "environment", "executable"),
    [
        ("A=1 B='x y' vllm serve m/x", {"A": "1", "B": "x y"}, None),
        ("env A=1 vllm serve m/x", {"A": "1"}, None),
        ("export A=1\nvllm serve m/x", {"A": "1"}, None),
        ("A=$A vllm serve m/x", {"A": "${A}"}, None),
        ("A= vllm serve m/x", {"A": ""}, None),
        ("nohup vllm serve m/x", {}, None),
        ("/opt/v/bin/vllm serve m/x", {}, "/opt/v/bin/vllm"),
        ("'/opt/my v/vllm' serve m/x", {}, "'/opt/my v/vllm'"),
        ("uv run --with foo vllm serve m/x", {}, "uv run --with foo vllm"),
        ("conda run -n llm vllm serve m/x", {}, "conda run -n llm vllm"),
        ("numactl --cpunodebind=0 vllm serve m/x", {}, "numactl --cpunodebind=0 vllm"),
        ("python -m vllm.entrypoints.cli.main serve m/x", {}, "python -m vllm.entrypoints.cli.main"),
        ("uv run python -m vllm.entrypoints.cli.main serve m/x", {}, "uv run python -m vllm.entrypoints.cli.main"),
        (
            "python3 -m vllm.entrypoints.openai.api_server --model m/x",
            {},
            "python3 -m vllm.entrypoints.openai.api_server",
        ),
        ("llamactl simulate vllm serve m/x", {}, "llamactl simulate vllm"),
        (
            "docker run --rm --network host -e A=1 vllm/vllm-openai:v1 --model m/x",
            {"A": "1"},
            "docker run --rm --network host -e A -e VLLM_API_KEY vllm/vllm-openai:v1",
        ),
        (
            "docker run -it --gpus all --ipc=host -p 8000:8000 --entrypoint vllm img serve m/x",
            {},
            "docker run --gpus all --ipc host --entrypoint vllm --network host --rm -e VLLM_API_KEY img",
        ),
    ],
)
def test_what_stands_around_the_program(command: str, environment: dict[str, str], executable: str | None) -> None:
    parsed = backend("vllm").parse(command)
    assert parsed.environment == environment
    assert parsed.executable == executable
    assert parsed.backend_options == {"model": "m/x"}
    assert not errors(backend("vllm").check(spec("vllm", parsed.backend_options, executable=parsed.executable)))


@pytest.mark.parametrize(
    ("kind", "command", "extra", "says"),
    [
        ("vllm", "vllm serve m --tensor-paralel-size 2", ("--tensor-paralel-size", "2"), "--tensor-parallel-size"),
        ("vllm", "vllm serve m --frobnicate=3 --seed 1", ("--frobnicate=3",), "--frobnicate"),
        ("vllm", "vllm serve m --frob -1", ("--frob", "-1"), "--frob"),
        ("vllm", "vllm serve --frob 1 m", ("--frob", "1"), "--frob"),
        ("vllm", "vllm serve m -tp2", ("-tp2",), "-tp 2"),
        ("vllm", "vllm serve m --task embed", ("--task", "embed"), "runner"),
        ("llama_cpp", "llama-server -m q --ctx-siz 5", ("--ctx-siz", "5"), "--ctx-size"),
        ("llama_cpp", "llama-server -m q --frob -1 -c 5", ("--frob", "-1"), "--frob"),
    ],
)
def test_unknown_flags_are_kept_with_their_value_and_named(
    kind: str, command: str, extra: tuple[str, ...], says: str
) -> None:
    parsed = backend(kind).parse(command)
    assert parsed.extra_args == extra
    assert any(says in warning for warning in parsed.warnings)
    assert "model" in parsed.backend_options


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("vllm serve org/Model-7B.v2", "Model-7B.v2"),
        ("vllm serve org/m --served-model-name gpt-x y", "gpt-x"),
        ("vllm serve '/m/ü model/'", "model"),
        ("vllm serve $MODEL", "vllm"),
        ("vllm serve ~/models/Model-7B", "Model-7B"),
        ("vllm serve $ROOT/org/Model-7B/", "Model-7B"),
        ("vllm serve /models/$MODEL", "vllm"),
        ("vllm serve ${MODEL:-org/m}", "vllm"),
        ("vllm serve /m/$SIZE-x", "vllm"),
        ("vllm serve " + "a" * 200, "a" * 63),
    ],
)
def test_the_suggested_name_is_valid(command: str, name: str) -> None:
    assert backend("vllm").parse(command).name == name


def test_llama_names_lose_suffix_and_quant() -> None:
    assert backend("llama_cpp").parse("llama-server -m /m/Qwen-Q4.gguf").name == "Qwen-Q4"
    assert backend("llama_cpp").parse("llama-server -hf org/gemma-GGUF:Q4_K_M").name == "gemma-GGUF"
    assert backend("llama_cpp").parse("llama-server -m ~/m/qwen2.5-7b-q4_k_m.gguf").name == "qwen2.5-7b-q4_k_m"
    assert backend("llama_cpp").parse("llama-server -m big-00001-of-00003.gguf").name == "big"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("vllm serve m", "vllm"),
        ("serve m", "vllm"),
        ("A=1 /x/vllm serve m", "vllm"),
        ("sudo vllm serve m", "vllm"),
        ("python -m vllm.entrypoints.openai.api_server --model m", "vllm"),
        ("docker run --gpus all vllm/vllm-openai --model m", "vllm"),
        ("llama-server -m /models/vllm", "llama_cpp"),
        ("docker run ghcr.io/ggml-org/llama.cpp:server -m q", "llama_cpp"),
        ("mlx_lm.server --model m", "mlx_lm"),
        ("python -m mlx_lm server --model m", "mlx_lm"),
        ("ls -l", None),
        ("--model m", None),
    ],
)
def test_a_command_is_recognised_by_exactly_one_backend(words: str, kind: str | None) -> None:
    readers = [one for one in discover().values() if isinstance(one, VocabularyBackend) and one.parse_routes]
    found = [one.kind for one in readers if program_place(words.split(), one.program) is not None]
    assert found == ([] if kind is None else [kind])


def test_routes_are_those_of_the_request() -> None:
    routes = {route: one.kind for one in discover().values() for route in one.parse_routes}
    assert {"vllm": "vllm", "llama-cpp": "llama_cpp", "mlx": "mlx_lm"}.items() <= routes.items()


def test_garbage_is_refused_by_its_length_before_a_word_of_it_is_read() -> None:
    """How long that takes is measured in tests/bench."""
    with pytest.raises(Rejected, match="characters are more than") as refused:
        backend("vllm").parse("'" * 1_000_000)  # an open quote, were it read
    assert (refused.value.problems[0].line, refused.value.problems[0].column) == (1, 1)
    assert LONGEST_COMMAND < 1_000_000


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=80) | st.text("ab -=\"'\\\n$`{}#;&|<>~/", max_size=60))
def test_any_text_is_parsed_or_rejected_and_nothing_else(text: str) -> None:
    for kind, prefix in (("vllm", "vllm serve "), ("llama_cpp", "llama-server "), ("mlx_lm", ""), ("vllm", "")):
        try:
            parsed: ParsedCommand | None = backend(kind).parse(prefix + text)
        except Rejected as rejected:
            parsed, places = None, [(problem.line, problem.column) for problem in rejected.problems]
        else:
            places = []
        if parsed is not None:
            assert re.match(NAME_PATTERN, parsed.name)
        else:
            assert places
            assert all(line and column for line, column in places)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp", "Cf"]), max_size=10),
        max_size=6,
    )
)
def test_quoted_words_come_back_as_they_were(words: list[str]) -> None:
    found, _ = split(_quoted(tuple(words)))
    assert [word.text for word in found] == [word.replace("${", "$${") for word in words]


@pytest.mark.parametrize(
    ("kind", "command", "doubts"),
    [
        ("vllm", "vllm serve --served-model-name x", ["1:1: no model is named: a vllm instance needs a model"]),
        ("vllm", "vllm serve ./m", ["1:1: the model's path is relative"]),
        ("vllm", "vllm serve m/x", []),
        ("vllm", "./vllm serve ./m", []),
        ("llama_cpp", "llama-server -m q.gguf", ["1:1: the model's path is relative"]),
        ("llama_cpp", "llama-server -m /m/q.gguf", []),
        ("llama_cpp", "llama-server -m ~/q.gguf", []),
        ("mlx_lm", "mlx_lm.server --model ../m", ["1:1: the model's path is relative"]),
    ],
)
def test_what_the_instance_lacks_is_said_once_and_is_no_warning_of_the_reading(
    kind: str, command: str, doubts: list[str]
) -> None:
    parsed = backend(kind).parse(command)
    assert len(parsed.doubts) == len(doubts)
    assert all(said.startswith(start) for said, start in zip(parsed.doubts, doubts, strict=True))
    assert parsed.as_json(yaml="")["warnings"] == [*parsed.warnings, *parsed.doubts]


def test_a_model_that_only_vllms_own_file_names_is_missed() -> None:
    parsed = backend("vllm").parse("vllm serve --config c.yaml")
    assert any("no model is named" in said for said in (*parsed.warnings, *parsed.doubts))


@pytest.mark.parametrize(
    "text",
    ['{"api_key": "v"}', "{'hf-token': 'v'}", '{"a": {"password" : 1}}', "--api-key v", "http://me:pw@host"],
)
def test_a_secret_is_told_by_its_name_within_a_text(text: str) -> None:
    assert looks_secret(text)
    assert not looks_secret('{"top_k": 1, "b": {"max_tokens": 2}}')
