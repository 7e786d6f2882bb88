"""The parsers under mutated command lines: never anything but an understood command or a refusal at a place inside the text, and soon.

Inputs are pieces of the project's table joined, cut, doubled and salted with what shells and editors make of text, and plain noise.
``LLAMACTL_FUZZ_SECONDS`` says for how long (20 by default, split among the parsers); ``LLAMACTL_FUZZ_SEED`` repeats a run.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from typing import Final

import pytest

from reconciler.backends import _detect, discover
from reconciler.config import load
from reconciler.config.document import parse, snippet
from reconciler.core.contracts import ParsedCommand
from reconciler.core.errors import Problem, Rejected
from tests.backends.samples import backend
from tests.backends.test_parse_corpus import EVERY, EVERY_WRONG

SECONDS: Final = float(os.environ.get("LLAMACTL_FUZZ_SECONDS", "20"))
LONGEST_ONE_S: Final = 5.0
"""One input that takes longer hangs: the slowest known ones (128 KiB of asterisks) take 0.4 s on a slow core."""
_VARIABLE: Final = re.compile(r"\$\{[A-Za-z_]")
SALT: Final = [
    *(
        "'",
        '"',
        "\\",
        "\\\n",
        "\n",
        "\r\n",
        "\r",
        "\t",
        " ",
        "$",
        "${",
        "}",
        "$(",
        "`",
        "&",
        "|",
        ">",
        "<",
        ";",
        "(",
        ")",
    ),
    *(
        "#",
        "~",
        "~/",
        "*",
        "{a,b}",
        "=",
        "-",
        "--",
        "=false",
        "-1",
        "1e999",
        "\u00a0",
        "\u2013",
        "\u201c",
        "\ufeff",
        "²",
        "\x00",
    ),
    *(
        "\ud800",
        "\U0001f600",
        "${X}",
        "$${X}",
        "$X",
        "${X:-y}",
        "''",
        '""',
        "'[1",
        "'{\"a\":1}'",
        "[" * 300,
        "9" * 5000,
        "NaN",
    ),
    *(
        "--api-key",
        "--model",
        "--hf-overrides",
        "--hf-overrides.a.b",
        "-O",
        "-cc",
        "-fa",
        "--",
        "env",
        "export",
        "A=1",
        "sudo",
    ),
    *(
        "docker",
        "run",
        "-e",
        "python",
        "-m",
        "uv",
        "serve",
        "vllm",
        "mlx_lm",
        "server",
        ".a" * 200,
        "+",
        "null",
        "x" * 3000,
    ),
]
CI_SEED: Final = 20261122
"""In CI the same inputs at every run, so that a red one is of the commit; everywhere else new ones, which is where finds are made."""
SEEDS: Final = [command for _, command in (*EVERY, *EVERY_WRONG)]
GOOD: Final = {kind: [command for one, command in EVERY if one == kind] for kind in ("vllm", "llama_cpp", "mlx_lm")}


NOISE: Final = "ab01 -=.:,/\"'\\\n\t$`{}[]#;&|<>~*?!%^@+é\u3000\x07"


def mutated(chance: random.Random, parser: str) -> str:
    """A command line that somebody might paste, or nobody."""
    if chance.random() < 0.1:
        return "".join(chance.choices(NOISE, k=chance.randrange(200)))
    text = chance.choice(GOOD.get(parser, SEEDS) if chance.random() < 0.7 else SEEDS)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        at, end = sorted((chance.randrange(len(text) + 1), chance.randrange(len(text) + 1)))
        match chance.randrange(7):
            case 0:
                text = text[:at] + chance.choice(SALT) + text[at:]
            case 1:
                text = text[:at] + text[end:]
            case 2:
                text = text[:end] + text[at:]
            case 3:
                other = chance.choice(SEEDS)
                text = text[:at] + other[chance.randrange(len(other) + 1) :]
            case 4:
                text = f"{text} {chance.choice(SALT)} {chance.choice(SALT)}"
            case 5:
                words = text.split(" ")
                chance.shuffle(words)
                text = " ".join(words)
            case _:
                text = text[:at] + chr(chance.choice((chance.randrange(128), chance.randrange(0x11000)))) + text[at:]
    return text * chance.choice((1, 1, 1, 1, 1, 1, 1, 2, 50))


def understand(command: str) -> ParsedCommand:
    """With the server told by the command."""
    return _detect.understand(command, discover())


PARSERS: Final[dict[str, Callable[[str], ParsedCommand]]] = {
    "vllm": backend("vllm").parse,
    "llama_cpp": backend("llama_cpp").parse,
    "mlx_lm": backend("mlx_lm").parse,
    "detected": understand,
    "unknown": _detect.unknown,
}


def examine(read: Callable[[str], ParsedCommand], command: str) -> bool:
    """Whether the command was understood; the answer is checked either way."""
    lines = command.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    try:
        parsed = read(command)
    except Rejected as refused:
        problems = refused.problems
    else:
        problems = ()
        _usable(lines, parsed)
    for problem in problems:
        _inside(lines, problem.line, problem.column)
    return not problems


def _usable(lines: list[str], parsed: ParsedCommand) -> None:
    for warning in parsed.warnings:
        line, column, _ = warning.split(":", 2)
        _inside(lines, int(line), int(column))
    text = snippet(parsed.name, parsed.instance())
    problems = _problems(text)
    assert not problems, problems


def _problems(text: str) -> list[Problem]:
    if _VARIABLE.search(text.replace("$${", "")):  # what the variables hold decides whether it is valid
        return list(parse(text.encode(), name="snippet").problems)
    try:
        load.load_text(text.encode(), name="snippet", backends=discover(), environ={})
    except Rejected as refused:
        return [problem for problem in refused.problems if not _is_expected(problem.message)]
    return []


def _is_expected(message: str) -> bool:
    """What a command may leave to be said: a parser does not invent a model or a port."""
    return any(
        part in message
        for part in ("needs a model", "does not say where the port goes", "never becomes ready", "itself listens on")
    )


def _inside(lines: list[str], line: int | None, column: int | None) -> None:
    assert line is not None
    assert column is not None
    assert 1 <= line <= len(lines)
    assert 1 <= column <= len(lines[line - 1]) + 1


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("parser", PARSERS)
def test_whatever_is_pasted_is_understood_or_refused_at_its_place(
    parser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = CI_SEED if os.environ.get("CI") else random.randrange(2**32)
    seed = int(os.environ.get("LLAMACTL_FUZZ_SEED", drawn))
    chance = random.Random(f"{parser} {seed}")
    ends = time.monotonic() + SECONDS / len(PARSERS)
    inputs = understood = 0
    slowest, slowest_input = 0.0, ""
    while time.monotonic() < ends:
        command = mutated(chance, parser)
        assert sys.__stderr__ is not None
        faulthandler.dump_traceback_later(10 * LONGEST_ONE_S, exit=True, file=sys.__stderr__)  # a hang ends the run
        started = time.perf_counter()
        try:
            understood += examine(PARSERS[parser], command)
        except Exception as error:
            error.add_note(f"seed {seed}, parser {parser}, input {command[:3000]!r}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        took = time.perf_counter() - started
        inputs += 1
        if took > slowest:
            slowest, slowest_input = took, command
    assert slowest < LONGEST_ONE_S, f"seed {seed}: {slowest:.1f} s for {slowest_input[:2000]!r}"
    assert understood, "a fuzzer whose every input is refused tests little"
    report = {
        "what": "parse fuzz",
        "parser": parser,
        "seed": seed,
        "seconds": round(SECONDS / len(PARSERS), 1),
        "inputs": inputs,
        "understood": understood,
        "slowest_ms": round(1000 * slowest, 1),
        "slowest_length": len(slowest_input),
    }
    with capsys.disabled():
        sys.stdout.write("\n" + json.dumps(report) + "\n")
