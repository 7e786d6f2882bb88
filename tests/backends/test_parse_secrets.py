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


UNSHAPED = ["Tr0ub4dor&3x", "q8Zk2mPw", "pa$Word99x"]
"""Secrets that no issuer marks, and that no shape tells."""
MISTAKES = {
    "vllm serve m/x --seed q": "'q'",
    "vllm serve m/x --max-model-len 32q": "'32q'",
    "vllm serve m/x --max-modle-len 4096 --seed x": "'x'",
    "vllm serve m/x --enforce-eager stray": "stray",
    "vllm serve m/x --dtype flaot16": "'flaot16'",
    "vllm serve m/x --gpu-memory-utilization high": "'high'",
    "vllm serve m/x --enforce-eager 1 extra": "1",
    "vllm serve m/x --seed": "--seed",
    "vllm serve m/x --seed 1 --seed 2": "--seed",
    "vllm serve m/x n/y": "n/y",
    "vllm serve m/x --port": "--port",
    "vllm serve m/x --help": "--help",
    "vllm serve m/x | tee log": "|",
    "vllm serve m/x > log.txt": ">",
    "vllm serve m/x 2>&1": "2>&",
    "vllm serve m/x &": "&",
    "vllm serve m/x; ls": ";",
    "cd /models && vllm serve m/x": "&&",
    "vllm serve $(cat model)": "$(",
    "vllm serve `cat model`": "`",
    "vllm serve \u201cm/x\u201d": "\u201c",
    "vllm serve m/x \u2014seed 1": "\u2014",
    "vllm serve 'm/x": "'",
    "sudo vllm serve m/x": "sudo",
    "ssh host vllm serve m/x": "ssh",
    "bash -c 'vllm serve m/x'": "bash",
    "vllm bench m/x": "bench",
    "env -i vllm serve m/x": "env",
    "my-server --port 8080": "'my-server'",
    "docker compose up": "compose",
    "docker run --network bridge vllm/vllm-openai --model m/x": "docker",
    "python -m http.server": "http.server",
    "llama-server -m q.gguf --ctx-size big": "'big'",
    "llama-server -m q.gguf stray": "'stray'",
    "llama-server -m q.gguf -ngl": "-ngl",
}
"""Ordinary mistakes, each with what its report has to show at its caret or in its message."""


def everything(read: Callable[[str], ParsedCommand], command: str) -> str:
    """What :func:`said` gives, without the parsed command."""
    return said(read, command)[0]


@pytest.mark.parametrize("command", MISTAKES)
def test_an_ordinary_mistake_is_shown_where_it_is(command: str) -> None:
    read = backend("llama_cpp" if command.startswith("llama") else "vllm").parse
    with pytest.raises(Rejected) as caught:
        read(command)
    (problem,) = caught.value.problems
    assert problem.source is not None
    assert problem.column is not None
    assert MISTAKES[command] in problem.message or problem.source[problem.column - 1 :].startswith(MISTAKES[command])
    assert "***" not in problem.message


@pytest.mark.parametrize("secret", UNSHAPED)
@pytest.mark.parametrize("command", MISTAKES)
def test_an_unshaped_secret_anywhere_in_an_ordinary_mistake_is_never_said(command: str, secret: str) -> None:
    words = command.split(" ")
    part = secret.replace("&", "$").split("$")[-1] if "$" in secret else secret.partition("&")[0]
    for place in range(len(words) + 1):
        for form in ("--api-key {}", "--api-key= {}", "\u2014api-key {}", "{}", "HF_TOKEN = {}", "--api-key={} {}"):
            pasted = " ".join((*words[:place], form.replace("{}", secret), *words[place:]))
            for read in readers("llama_cpp" if "llama" in command else "vllm"):
                assert part not in everything(read, pasted), pasted


@pytest.mark.parametrize(
    "command",
    [
        *(
            "% \u2014api-key {}",
            "% \u2212\u2212api-key {}",
            "% \\ --api-key {}",
            "% --api-key={} {}",
            "% --api-key '' {}",
        ),
        *("% --api-key=[{}, {}] --seed q", "HF_TOKEN = {} %", "HF_TOKEN= {} %", "HF_TOKEN:{} %", "HF_TOKEN ={} %"),
        *("API_KEY=$(echo {}) %", "X+={} %", "1X={} %", "X-Y={} %", "hf auth login {} && %", "export HF_TOKEN {}; %"),
        *("echo {} | docker login --password-stdin && %", "% --revision https://h/x?X-Amz-Signature={} stray"),
        *("ssh u:{}@h %", "% --api-key\u200b{}", "% --api-key:{} --seed q stray", "% --api-key{}", "% -hft{}"),
        *(
            "% --api-keysk-proj-{}",
            '% --api-key "x{}"',
            'HF_TOKEN="hf_{}" %',
            "PASSWORD=ab{} %",
            "HF_TOKEN=${{HF_TOKEN:-{}}} %",
        ),
    ],
)
@pytest.mark.parametrize("secret", UNSHAPED)
@pytest.mark.parametrize("kind", sorted(PROGRAMS))
def test_a_slip_around_a_secret_does_not_say_it(kind: str, command: str, secret: str) -> None:
    pasted = command.replace("{}", secret).replace("{{", "{").replace("}}", "}").replace("%", PROGRAMS[kind])
    for read in readers(kind):
        text = everything(read, pasted)
        for part in ("Tr0ub4dor", "q8Zk2mPw", "Word99x"):
            assert part not in text, pasted


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        *(("llama_cpp", f"% {given}") for given in ("-mu https://u:{}@h/x.gguf", "-mu https://h/x?token={}")),
        *(("vllm", f"% {given}") for given in ("--ap={}", "--api {}", "--hf-token:{}", "-hft {}")),
        *(("vllm", f"% {given}") for given in ("--header 'Authorization: Bearer {}'", "--hf-overrides.api_key {}")),
        ("llama_cpp", '% --mcp-servers-json \'{"TOKEN":"{}"}\''),
        ("vllm", "uv run --index-url https://u:{}@h %"),
        *(("vllm", CONTAINER.replace("{}", given)) for given in ("--label token={}", "--log-opt a-token={}")),
    ],
)
def test_a_secret_that_goes_into_the_file_is_warned_about(kind: str, command: str) -> None:
    pasted = command.replace("{}", "q8Zk2mPw").replace("%", PROGRAMS[kind])
    text, parsed = said(backend(kind).parse, pasted)
    assert parsed is not None, text
    assert "q8Zk2mPw" in repr(parsed)
    assert "stands in the file as it was given" in text
    assert "q8Zk2mPw" not in text


@pytest.mark.parametrize(
    ("kind", "flag"), [("llama_cpp", "--api-k"), ("llama_cpp", "--hft"), ("vllm", "--api-key.x"), ("vllm", "--hf-tokn")]
)
def test_a_slip_in_the_flag_of_a_secret_drops_both(kind: str, flag: str) -> None:
    text, parsed = said(backend(kind).parse, f"{PROGRAMS[kind]} {flag} q8Zk2mPw")
    assert parsed is not None
    assert not parsed.extra_args, "a file with it would be refused"
    assert "was dropped" in text
    assert "q8Zk2mPw" not in repr(parsed)


@pytest.mark.parametrize(
    "name", ["MY_PASS", "GH_PAT", "VLLM_AUTH", "MY_BEARER", "MY_SECRET_X", "HF_TOKEN", "DB_PASSWORD"]
)
def test_variables_that_are_named_like_secrets_are_left_out(name: str) -> None:
    _, parsed = said(backend("vllm").parse, f"{name}=q8Zk2mPw {PROGRAMS['vllm']}")
    assert parsed is not None
    assert parsed.environment[name] == f"${{{name}}}"


@pytest.mark.parametrize(
    "given_as", ["--header 'Authorization: Bearer ${X}'", "--x https://u:${P}@h/", "--y token=${X}"]
)
def test_a_secret_that_a_variable_stands_for_is_nothing_to_warn_about(given_as: str) -> None:
    text, parsed = said(backend("vllm").parse, f"{PROGRAMS['vllm']} {given_as.replace(chr(39), chr(34))}")
    assert parsed is not None
    assert "stands in the file" not in text
