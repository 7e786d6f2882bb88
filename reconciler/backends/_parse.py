"""A pasted command line to one instance: words, outer layers, options, and what is llamactl's own taken out with a warning.

Nothing is executed, expanded or read. Options, environment and executable are texts of the configuration file, so they can be
written to it as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from pydantic import JsonValue

from reconciler.backends import _tokens
from reconciler.backends._argv import Reading, read_words
from reconciler.backends._tokens import Word
from reconciler.backends._vocabulary import Vocabulary
from reconciler.backends._wrappers import Program, peel, quoted
from reconciler.core.contracts import ParsedCommand
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import NAME_PATTERN

_NAME_LIMIT = 63
_MODEL_FILE = re.compile(r"(?:[-.]0*1-of-0*\d+)?\.(?:gguf|safetensors|bin)$")


def parse_command(
    command: str,
    *,
    kind: str,
    vocabulary: Vocabulary,
    program: Program,
    key_variables: frozenset[str],
    model_keys: Sequence[str],
) -> ParsedCommand:
    """Understand one command. ``key_variables`` are llamactl's to set; ``model_keys`` suggest a name, best first."""
    words, shell_warnings = _tokens.split(command)
    if not words:
        problem = Problem(
            message="the command is empty", hint=f"paste one, as {program.example}", code=_tokens.CODE, line=1, column=1
        )
        raise Rejected(problem)
    line_warnings = _join_lines(words)
    peeled = peel(words, program)
    reading = read_words(vocabulary, peeled.arguments)
    warnings = [*shell_warnings, *line_warnings, *peeled.warnings, *reading.warnings]
    environment = dict(peeled.environment)
    _take_ours(vocabulary, reading, environment, warnings)
    for name in sorted(key_variables & environment.keys()):
        del environment[name]
        warnings.append(f"{name} was dropped: llamactl gives each server a random key of its own")
    executable = None if peeled.executable in ([], [program.plain]) else quoted(peeled.executable)
    if executable is not None and re.match(r"\.{0,2}/|[^/ ]+/", executable) and not executable.startswith("/"):
        warnings.append(f"{peeled.executable[0]} is relative: set working_directory, or give its whole path")
    return ParsedCommand(
        backend_type=kind,
        backend_options=reading.options,
        environment=environment,
        extra_args=tuple(reading.extra),
        executable=executable,
        name=suggest_name(reading.options, model_keys, kind),
        warnings=tuple(warnings),
    )


def _join_lines(words: Sequence[Word]) -> Sequence[str]:
    """Lines without a joining backslash: joined when they go on with a flag or only set variables before; else refused."""
    warnings = []
    only_assignments = True
    for at, word in enumerate(words):
        if word.fresh_line and at and not only_assignments:
            if not word.text.startswith("-"):
                _tokens.refuse(
                    word, "a second command begins here", "end the line before with a backslash, or paste one command"
                )
            warnings.append(f"{word.place}: this line was joined to the one before, which has no backslash at its end")
        if not word.assignment and word.text != "export":
            only_assignments = False
    return warnings


def _take_ours(vocabulary: Vocabulary, reading: Reading, environment: dict[str, str], warnings: list[str]) -> None:
    for name in list(reading.options):
        option = vocabulary[name]
        place = reading.words[name].place
        if name in ("host", "port"):
            del reading.options[name]
            warnings.append(f"{place}: {option.flag} was dropped: llamactl assigns it (set {name} to pin it)")
        elif option.secret:
            del reading.options[name]
            if "token" in name:
                environment.setdefault("HF_TOKEN", "${HF_TOKEN}")
                warnings.append(
                    f"{place}: {option.flag} was dropped: HF_TOKEN is taken from llamactl's environment instead"
                )
            else:
                warnings.append(
                    f"{place}: {option.flag} was dropped: llamactl gives each server a random key of its own"
                )
        elif option.exits:
            _tokens.refuse(
                reading.words[name], f"{option.flag} starts no server", "paste a command that serves a model"
            )


def suggest_name(options: Mapping[str, JsonValue], keys: Sequence[str], fallback: str) -> str:
    """A valid instance name out of the first of these options that is set."""
    for key in keys:
        value = options.get(key)
        if isinstance(value, list):
            value = value[0] if value else None
        if not isinstance(value, str) or "${" in value:
            continue
        last = value.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        last = _MODEL_FILE.sub("", last).partition(":")[0]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).lstrip("._-")[:_NAME_LIMIT].rstrip("._-")
        if re.match(NAME_PATTERN, name):
            return name
    return fallback


def no_command(kind: str) -> NoReturn:
    """Raise Rejected for a backend whose commands cannot be read."""
    raise Rejected(
        Problem(
            message=f"a command cannot be read as {kind}",
            hint="paste it as vllm, llama_cpp or mlx_lm, or write backend_type: custom with the command as a list",
            code=_tokens.CODE,
            line=1,
            column=1,
        )
    )
