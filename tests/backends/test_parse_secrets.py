"""A secret in a pasted command is never said: not in a warning, not in a refusal, not in the line that a refusal shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.backends import _detect, discover
from reconciler.config.document import snippet
from reconciler.core.contracts import ParsedCommand
from reconciler.core.errors import Rejected
from tests.backends.samples import backend

PROGRAMS = {
    "vllm": "vllm serve m/x ",
    "llama_cpp": "llama-server -m q.gguf ",
    "mlx_lm": "mlx_lm.server --model m/x ",
}
FLAGS = [
    *("--api-key {}", "--api-key={}", "--hf-token {}", "--hf-token={}", "-hft {}", "--api-key \\\n  {}"),
    *("--my-secret-key {}", "--my-secret-key={}", "--password {}", "--password={}", "--openai-api-key {}"),
    *(
        "--frobnicate {}",
        "--frobnicate={}",
        "--frob 1 {}",
        "-H 'Authorization: Bearer {}'",
        "--header=Authorization:{}",
    ),
    *("--api-key '{}'", '--api-key "{}"', "--api-key '{} ", '--password "{} ', "--password \\\n{}", "--api-key -{}"),
    *("--hf-overrides 'token={}'", '--hf-overrides \'{{"api_key": "{}"\'', "--seed 'Bearer {}'", "--seed=sk-{}"),
    *("--port hf_{}", "--max-tokens --token={}", "-x {}", "--x.y {}"),
]
BEFORE = [
    *("API_KEY={} ", "HF_TOKEN={} ", "A={} ", "A='{}' ", "A='{} ", "env SECRET={} ", "env 'X={}' ", "export T={}\n"),
    *("https_proxy=http://u:{}@h ", "A=1 B={} nohup ", "VLLM_API_KEY={} ", "LLAMA_API_KEY='{}' "),
]
AFTER = [
    "",
    " --seed q",
    " 'open",
    " | tee log",
    " > log",
    " $(x)",
    " `x`",
    " stray word",
    "\nls",
    " --help",
    " \u2014x",
    " &",
]
CONTAINER = "docker run --network host --rm {} vllm/vllm-openai --model m/x "
IN_CONTAINER = ["-e HF_TOKEN={}", "-eKEY={}", "--env=KEY={}", "-e 'KEY={} x'", "--env KEY={} --bogus", "-e {}=1 -e ="]

SECRETS = st.from_regex(r"[A-Z][a-z0-9]{3}[A-Za-z0-9_]{8,20}", fullmatch=True)


def said(read: Callable[[str], ParsedCommand], command: str) -> tuple[str, ParsedCommand | None]:
    """Everything that reading the command says, and what it means."""
    try:
        parsed = read(command)
    except Rejected as refused:
        parts = [str(refused), repr(refused), *(repr(problem) for problem in refused.problems)]
        return "\n".join(parts), None
    return "\n".join((*parsed.warnings, parsed.name)), parsed


def readers(kind: str) -> tuple[Callable[[str], ParsedCommand], ...]:
    """Every way a command is read."""
    return (backend(kind).parse, lambda command: _detect.understand(command, discover()), _detect.unknown)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(sorted(PROGRAMS)), flag=st.sampled_from(FLAGS), after=st.sampled_from(AFTER), secret=SECRETS
)
def test_the_value_of_a_secret_or_unknown_flag_is_never_said(kind: str, flag: str, after: str, secret: str) -> None:
    for read in readers(kind):
        text, _ = said(read, PROGRAMS[kind] + flag.format(secret) + after)
        assert secret not in text


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(sorted(PROGRAMS)), before=st.sampled_from(BEFORE), after=st.sampled_from(AFTER), secret=SECRETS
)
def test_the_value_of_a_variable_is_never_said(kind: str, before: str, after: str, secret: str) -> None:
    for read in readers(kind):
        text, _ = said(read, before.format(secret) + PROGRAMS[kind] + after)
        assert secret not in text


@settings(max_examples=100, deadline=None)
@given(option=st.sampled_from(IN_CONTAINER[:-1]), after=st.sampled_from(AFTER), secret=SECRETS)
def test_what_a_container_is_given_is_never_said(option: str, after: str, secret: str) -> None:
    for read in readers("vllm"):
        text, _ = said(read, CONTAINER.format(option.format(secret)) + after)
        assert secret not in text


@pytest.mark.parametrize("kind", sorted(PROGRAMS))
@pytest.mark.parametrize(
    "given_as",
    ["HF_TOKEN={} %", "% --hf-token {}", "% --api-key {}", "VLLM_API_KEY={} LLAMA_API_KEY={} MY_PASSWORD={} %"],
)
def test_a_known_secret_does_not_even_reach_the_file(kind: str, given_as: str) -> None:
    secret = "S3cretOfSomebody"
    if kind == "mlx_lm" and "--" not in given_as:
        given_as = given_as.replace("VLLM_API_KEY={} LLAMA_API_KEY={} ", "")
    command = given_as.replace("%", PROGRAMS[kind]).replace("{}", secret)
    _, parsed = said(backend(kind).parse, command)
    assert parsed is not None
    assert secret not in snippet(parsed.name, parsed.instance())
    assert secret not in repr(parsed)
    assert parsed.warnings, "that it was left out is said"


def test_the_line_that_a_refusal_shows_is_starred_out_at_its_length() -> None:
    with pytest.raises(Rejected) as caught:
        backend("vllm").parse("A=b vllm serve m/x --api-key k1 --frob v --seed q")
    (problem,) = caught.value.problems
    assert problem.source == "A=* vllm serve m/x --api-key ** --frob * --seed q"
    assert problem.column is not None
    assert problem.source[problem.column - 1 :] == "--seed q"
