"""The project's table of command lines: each understood to the last word or refused at its place, and the same again after the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from reconciler.backends import _detect, discover
from reconciler.config import load
from reconciler.config.document import snippet
from reconciler.core.contracts import Launch, ParsedCommand
from reconciler.core.errors import Problem, Rejected
from tests.backends.cases import Case, Wrong
from tests.backends.corpus import REFUSED, UNDERSTOOD
from tests.backends.corpus_around import REFUSED_AROUND, UNDERSTOOD_AROUND
from tests.backends.corpus_flags import REFUSED_FLAGS, UNDERSTOOD_FLAGS
from tests.backends.corpus_text import REFUSED_TEXT, UNDERSTOOD_TEXT
from tests.backends.samples import backend

CASES = [*UNDERSTOOD_AROUND, *UNDERSTOOD_TEXT, *UNDERSTOOD_FLAGS]
WRONG = [*REFUSED_AROUND, *REFUSED_TEXT, *REFUSED_FLAGS]
PLAIN = [(kind, command) for kind, command, _ in UNDERSTOOD]
EVERY = [(case.kind, case.command) for case in CASES] + PLAIN
EVERY_WRONG = [(case.kind, case.command) for case in WRONG] + [(kind, command) for kind, command, *_ in REFUSED]
VARIABLES = {
    **{name: f"of-{name}" for name in ("A", "B", "MODEL", "MODELS", "ROOT", "HTTPS_PROXY")},
    **{"HF_TOKEN": "hf_of_both", "T": "hf_of_both"},
    **{"HOME": "/home/me", "VENV": "/venv", "SEED": "3", "TP": "2"},
}
"""What the table's commands read from the environment."""
FEWEST = 150


def test_the_table_is_as_long_as_was_promised() -> None:
    distinct = {*EVERY, *EVERY_WRONG}
    assert len(distinct) >= FEWEST
    assert min(Counter(kind for kind, _ in distinct).values()) >= 25, "each server has its share"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.command[:60])
def test_understood_to_the_last_word(case: Case) -> None:
    parsed = backend(case.kind).parse(case.command)
    assert parsed.backend_options == case.options
    assert parsed.environment == case.environment
    assert parsed.extra_args == case.extra
    assert parsed.executable == case.executable
    assert len(parsed.warnings) == len(case.warns), parsed.warnings
    for warning, expected in zip(parsed.warnings, case.warns, strict=True):
        place, part = expected.split(" ", 1)
        assert warning.startswith(f"{place}: ")
        assert part in warning


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.command[:60])
def test_refused_at_its_place_with_what_to_do(case: Wrong) -> None:
    with pytest.raises(Rejected) as caught:
        backend(case.kind).parse(case.command)
    (problem,) = caught.value.problems
    assert f"{problem.line}:{problem.column}" == case.place, str(problem)
    assert case.says in problem.message
    assert case.cure in (problem.hint or "")


@pytest.mark.parametrize(("kind", "command"), EVERY)
def test_every_warning_begins_with_its_place(kind: str, command: str) -> None:
    lines = command.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    places = []
    for warning in backend(kind).parse(command).warnings:
        found = re.match(r"(\d+):(\d+): \S", warning)
        assert found, warning
        line, column = int(found[1]), int(found[2])
        assert 1 <= column <= len(lines[line - 1])
        places.append((line, column))
    assert places == sorted(places)


def _loaded(parsed: ParsedCommand) -> Launch:
    """Through the file: YAML, the loader, the launch."""
    text = snippet(parsed.name, parsed.instance())
    fleet = load.load_text(text.encode(), name="parsed.yaml", backends=discover(), environ=VARIABLES)
    launch = backend(parsed.backend_type).launch(fleet.instances[parsed.name], fleet.backends)
    assert launch is not None
    return launch


def _command(launch: Launch) -> str:
    """What starts this launch, as somebody would paste it."""
    names = {name: value for name, value in launch.environment.items() if value is not None}
    words = [*(f"{name}={_quoted(value)}" for name, value in names.items()), *map(_quoted, launch.argv)]
    return " ".join(words)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


@pytest.mark.parametrize(("kind", "command"), EVERY)
def test_parse_write_load_launch_and_parse_again_is_a_fixed_point(kind: str, command: str) -> None:
    parsed = backend(kind).parse(command)
    if any("no model is named" in warning for warning in parsed.warnings):
        with pytest.raises(Rejected, match="model"):
            _loaded(parsed)
        return
    launch = _loaded(parsed)
    again = backend(kind).parse(_command(launch))
    assert _loaded(again) == launch
    if "${" not in str(parsed.instance()).replace("$${", ""):  # variables are read when the file is loaded
        assert again.backend_options == parsed.backend_options
        assert again.environment == parsed.environment
        assert (again.extra_args, again.executable, again.name) == (parsed.extra_args, parsed.executable, parsed.name)


def _answer(read: Callable[[str], ParsedCommand], command: str) -> ParsedCommand | tuple[Problem, ...]:
    try:
        return read(command)
    except Rejected as refused:
        return refused.problems


def _understand(command: str) -> ParsedCommand:
    return _detect.understand(command, discover())


@pytest.mark.parametrize(("kind", "command"), [*EVERY, *EVERY_WRONG])
def test_the_server_is_told_by_the_command_itself(kind: str, command: str) -> None:
    told = _answer(_understand, command)
    expected = _answer(backend(kind).parse, command)
    if isinstance(told, ParsedCommand):
        assert told == expected or told.backend_type != kind
        return
    (problem,) = told
    assert problem.line is not None
    assert problem.column is not None
    if isinstance(expected, ParsedCommand):  # only arguments alone may leave it open
        assert re.match(r"\s*(?:-|[\w-]+/\S+ )", command)
        assert "--backend" in (problem.hint or "")


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("--tensor-parallel-size 2", "vllm"),
        ("org/m --seed 1", "vllm"),
        ("-m q.gguf -ngl 99", "llama_cpp"),
        ("--model m --prompt-cache-bytes 2GB", "mlx_lm"),
        ("A=1 --ctx-size 5", "llama_cpp"),
        ("'/opt/my venv/bin/vllm' serve m", "vllm"),
        ("A='x y' B=1 'llama-server' -m q", "llama_cpp"),
        ("docker run --network host --rm vllm/vllm-openai --model /x/llama-server", "vllm"),
        ("uv run --with vllm mlx_lm.server --model m", "mlx_lm"),
        ("--tensor-parallel-size x", "vllm"),
    ],
)
def test_the_one_server_that_knows_every_flag_is_meant(command: str, kind: str) -> None:
    assert _answer(_understand, command) == _answer(backend(kind).parse, command)


@pytest.mark.parametrize(
    ("command", "place", "says"),
    [
        ("--model m", "1:1", "cannot tell which server these arguments are for"),
        ("--seed 1 --frobnicate 2", "1:10", "none knows all of them"),
        ("ollama serve", "1:1", "none of llama-server, mlx_lm.server, vllm"),
        ("A=1 sudo vllm serve m", "1:5", "sudo"),
        ("bash -c 'vllm serve m'", "1:1", "bash"),
        ("nice -n 5 ollama serve", "1:1", "behind nice"),
        ("vllm serve 'm", "1:12", "never closed"),
        ("A=1", "1:1", "ends before"),
        (" # nothing", "1:1", "empty"),
    ],
)
def test_what_cannot_be_told_is_refused_at_its_place(command: str, place: str, says: str) -> None:
    with pytest.raises(Rejected) as caught:
        _detect.understand(command, discover())
    (problem,) = caught.value.problems
    assert f"{problem.line}:{problem.column}" == place
    assert says in problem.message
    assert problem.hint


def test_a_command_of_no_known_server_keeps_its_words() -> None:
    parsed = _detect.unknown("A=1 HF_TOKEN=hf_abcdefgh nohup /opt/tgi --model-id org/Big-7B --port 8123 {host} '$x' $Y")
    assert parsed.backend_type == "custom"
    words = ["/opt/tgi", "--model-id", "org/Big-7B", "--port", "8123", "{host}", "$x", "${Y}"]
    assert parsed.backend_options == {"command": words, "port": 8123}
    assert parsed.environment == {"A": "1", "HF_TOKEN": "${HF_TOKEN}"}
    assert parsed.name == "Big-7B"
    assert all(re.match(r"\d+:\d+: ", warning) for warning in parsed.warnings)
    fleet = load.load_text(
        snippet(parsed.name, parsed.instance()).encode(), name="x", backends=discover(), environ={"Y": "y", **VARIABLES}
    )
    command = fleet.instances["Big-7B"].backend_options["command"]
    assert isinstance(command, list)
    assert command[-1] == "y"


@pytest.mark.parametrize("command", ["", "A=1", "x; y", "x > y", "--port 5", "'' x"])
def test_what_is_no_command_is_no_custom_one_either(command: str) -> None:
    with pytest.raises(Rejected) as caught:
        _detect.unknown(command)
    assert caught.value.problems[0].line == 1
