"""A pasted command line to one instance: words, outer layers, options, and what is llamactl's own taken out with a warning.

Nothing is executed, expanded or read. Options, environment and executable are texts of the configuration file, so they can be
written to it as they are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from pydantic import JsonValue

from reconciler.backends import _docker, _tokens
from reconciler.backends._argv import Reading, read_words
from reconciler.backends._flags import option_words
from reconciler.backends._hide import at_word, flag_named, holds_secret, looks_secret, secret_flag, secret_variable
from reconciler.backends._mask import Known, Takes, with_source, without_secrets
from reconciler.backends._outer import REFUSED
from reconciler.backends._tokens import Word
from reconciler.backends._values import ValueProblem
from reconciler.backends._vocabulary import Kind, Syntax, Vocabulary
from reconciler.backends._wrappers import Peeled, Program, peel, peel_outer, quoted
from reconciler.core.contracts import ParsedCommand
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import NOTE_PREFIX, is_name

_NAME_LIMIT = 63
_MODEL_FILE = re.compile(r"(?:[-.]0*1-of-0*\d+)?\.(?:gguf|safetensors|bin)$")
_LISTENING = re.compile(r"uds|api_prefix|(?:enable_)?ssl_\w+")
"""Options about how the server listens: llamactl's own, as host and port are."""
_PORT = re.compile(r"[0-9]{1,5}")
_VARIABLE = re.compile(r"\$?\$\{[^}]*\}?")
_UNKNOWN = "\N{NULL}"
"""Stands for what a variable holds, which no text of a file has."""
_REFERENCE = re.compile(r"(?:Bearer )?\$\{[A-Za-z_][A-Za-z0-9_]*(?::-)?\}")
_AS_GIVEN = "stands in the file as it was given; ${NAME} would keep it out"
_OWN_KEY = "llamactl gives each server a random key of its own"


def parse_command(
    command: str,
    *,
    kind: str,
    vocabulary_of: Callable[[tuple[str, ...] | None], tuple[Vocabulary, bool]],
    program: Program,
    key_variables: frozenset[str],
    model_keys: Sequence[str],
    refused: Mapping[str, str],
) -> ParsedCommand:
    """Understand one command. ``vocabulary_of`` knows the options of a program by its words (None: of the usual one), and
    whether they were read from that very program;
    ``key_variables`` are llamactl's to set; ``model_keys`` suggest a name, best first; ``refused`` are options that no
    instance may have, each with what to do instead. Rejected with line, column and the line's text."""
    usual, _ = vocabulary_of(None)
    known = Known(
        takes=functools.partial(takes, usual),
        program=lambda word: program.is_program(word) or word in program.modules,
        subcommand=frozenset({program.subcommand or program.plain, *program.tails.values(), *program.modes}),
    )
    try:
        parsed = _parse(command, kind, vocabulary_of, program, key_variables, model_keys, refused)
    except Rejected as rejected:
        raise with_source(rejected, command, known) from None
    return without_secrets(parsed, command, known) if parsed.warnings else parsed


def takes(vocabulary: Vocabulary, flag: str) -> Takes:
    """What follows a flag, as far as saying it goes: a part of a known one (``--a.b``), or one cut short, counts as the whole."""
    base, _, rest = flag.partition(".")
    found = vocabulary.by_flag(flag) or vocabulary.by_flag(base)
    if found is None and vocabulary.syntax is not Syntax.LLAMA and len(base) > 4 and base.startswith("--"):
        short = vocabulary.by_prefix(base)
        found = None if short is None else short[1:]
    if found is None:
        return Takes.UNKNOWN
    if found[0].secret or (rest and secret_flag(rest)):
        return Takes.SECRET
    match found[0].kind:
        case Kind.SWITCH:
            return Takes.SWITCH
        case Kind.LIST | Kind.TUPLE:
            return Takes.VALUES
        case Kind.VALUE | Kind.APPEND | Kind.COMMA:
            return Takes.VALUE


def _parse(
    command: str,
    kind: str,
    vocabulary_of: Callable[[tuple[str, ...] | None], tuple[Vocabulary, bool]],
    program: Program,
    key_variables: frozenset[str],
    model_keys: Sequence[str],
    refused: Mapping[str, str],
) -> ParsedCommand:
    words, shell_warnings = split_command(command, program.example)
    line_warnings = _join_lines(words)
    peeled = peel(words, program)
    usual = peeled.executable in ([], [program.plain])
    vocabulary, own = vocabulary_of(None if usual else tuple(peeled.executable))
    reading = read_words(vocabulary, peeled.arguments, own=own)
    _take_ours(vocabulary, reading, peeled, refused)
    _check_values(vocabulary, reading)
    for name in sorted(key_variables & peeled.environment.keys()):
        del peeled.environment[name]
        peeled.warn(peeled.places[name], f"{name} was dropped: {_OWN_KEY}")
    _hide_variables(peeled)
    _say_what_stands(vocabulary, reading, peeled, words)
    first = peeled.program or words[0]
    executable = None if usual else _executable_text(peeled.executable, first)
    if peeled.executable and re.match(r"(?!\$\{)[^/]+/", peeled.executable[0]):
        peeled.warn(first, "the program's path is relative: set working_directory, or give its whole path")
    if vocabulary.syntax is not Syntax.LLAMA and not any(reading.options.get(key) for key in model_keys):
        peeled.warn(first, "no model is named; add one before the instance is used")
    return ParsedCommand(
        backend_type=kind,
        backend_options=reading.options,
        environment=peeled.environment,
        extra_args=tuple(reading.extra),
        executable=executable,
        name=suggest_name(reading.options, model_keys, kind),
        warnings=_in_order((*shell_warnings, *line_warnings, *peeled.warnings, *reading.warnings)),
    )


def parse_unknown(command: str, *, kind: str) -> ParsedCommand:
    """A command of no known server, its words kept as they are. Rejected with line, column and the line's text."""
    known = Known()
    try:
        parsed = _parse_unknown(command, kind)
    except Rejected as rejected:
        raise with_source(rejected, command, known) from None
    return without_secrets(parsed, command, known)


def _parse_unknown(command: str, kind: str) -> ParsedCommand:
    words, shell_warnings = split_command(command, "my-server --port 8080")
    line_warnings = _join_lines(words)
    peeled = Peeled(arguments=())
    at = peel_outer(words, peeled)
    if at >= len(words):
        _tokens.refuse(words[-1], "the command ends before any program", "paste a whole command")
    if not words[at].text or words[at].text.startswith("-"):
        _tokens.refuse(words[at], "no program stands before this word", "paste a whole command")
    _hide_variables(peeled)
    texts = [word.text for word in words[at:]]
    options: dict[str, JsonValue] = {"command": [*texts]}
    for place, text in enumerate(texts):
        flag, equals, value = text.partition("=")
        given = value if equals else texts[place + 1] if place + 1 < len(texts) else ""
        if flag == "--port" and _PORT.fullmatch(given) and 0 < int(given) < 65536:
            options["port"] = int(given)
            peeled.warn(words[at + place], "the port is pinned to the one given here; {port} would have one assigned")
        elif secret_flag(flag) and given and not given.startswith(("-", "${")):
            said = flag_named(flag)
            peeled.warn(
                words[at + place],
                f"what follows {said} stands in the file as it was given; ${{NAME}} would keep it out",
            )
    return ParsedCommand(
        backend_type=kind,
        backend_options=options,
        environment=peeled.environment,
        extra_args=(),
        executable=None,
        name=_name_of_unknown(texts, kind),
        warnings=_in_order((*shell_warnings, *line_warnings, *peeled.warnings)),
    )


def _name_of_unknown(texts: Sequence[str], fallback: str) -> str:
    """Out of the model, where a flag names one as most servers do; else out of the program."""
    for flag in ("--served-model-name", "--alias", "--model", "--model-path", "--model-id", "-m"):
        for place, text in enumerate(texts):
            name, equals, value = text.partition("=")
            if name == flag and (equals or place + 1 < len(texts)):
                found = suggest_name({"model": value if equals else texts[place + 1]}, ("model",), "")
                if found:
                    return found
    return suggest_name({"model": texts[0]}, ("model",), fallback)


def split_command(command: str, example: str) -> tuple[Sequence[Word], Sequence[str]]:
    """The words, at least one, and warnings; Rejected with line and column."""
    words, warnings = _tokens.split(command, secret_variable)
    if not words:
        commented = any(line.lstrip().startswith("#") for line in _tokens.lines_of(command).split("\n"))
        hint = "leave the # out if it is a prompt; a shell takes the rest for a comment" if commented else None
        _tokens.refuse(Word("", 1, 1), "the command is empty", hint or f"paste one, as {example}")
    return words, warnings


def _in_order(warnings: Sequence[str]) -> tuple[str, ...]:
    """In the order of their places."""

    def place(text: str) -> tuple[int, int]:
        line, column, _ = text.split(":", 2)
        return int(line), int(column)

    return tuple(sorted(warnings, key=place))


def _executable_text(executable: Sequence[str], first: Word) -> str:
    if any(char in word for word in executable for char in "\n\t"):
        _tokens.refuse(first, "a line break or tab stands before the server's arguments", "take it out of the quotes")
    return quoted(executable)


def _join_lines(words: Sequence[Word]) -> Sequence[str]:
    """Lines without a joining backslash: joined when they go on with a flag or only set variables before; else refused."""
    warnings = []
    only_assignments = True
    first: Word | None = None
    exporting = False
    for at, word in enumerate(words):
        if word.fresh_line or not at:
            exporting = only_assignments and word.text == "export"
        if word.fresh_line and at and not only_assignments:
            if not word.text.startswith("-"):
                if first is not None and first.text in REFUSED:
                    _tokens.refuse(first, f"cannot carry {first.text} over", REFUSED[first.text])
                _tokens.refuse(
                    word, "a second command begins here", "end the line before with a backslash, or paste one command"
                )
            warnings.append(at_word(word, "this line was joined to the one before, which has no backslash at its end"))
        if not word.assignment and not exporting:
            only_assignments = False
            first = first or word
    return warnings


def _hide_variables(peeled: Peeled) -> None:
    """A secret does not go into the file: the variable is read from llamactl's own environment instead."""
    for name, value in peeled.environment.items():
        if value and not _REFERENCE.fullmatch(value) and secret_variable(name, value):
            peeled.environment[name] = f"${{{name}}}"
            peeled.warn(
                peeled.places[name], f"the value of {name} was left out; set {name} where llamactl itself is started"
            )


def _say_what_stands(vocabulary: Vocabulary, reading: Reading, peeled: Peeled, words: Sequence[Word]) -> None:
    """A secret that goes into the file, because nobody knows what would become of the command without it, is said."""
    for name, value in reading.options.items():
        if holds_secret(value):
            what = f"a part of {vocabulary[name].flag} looks like a secret and"
            reading.warnings.append(at_word(reading.words[name], f"{what} {_AS_GIVEN}"))
    places = {word.text: word for word in reversed(words)}
    held = [*peeled.executable, *reading.extra]
    for before, text in zip(("", *held), held, strict=False):
        word = places.get(text) or next((one for one in words if text in one.text), words[0])
        by_flag = before.startswith("-") and secret_flag(before) and before not in reading.extra
        by_name = by_flag and not text.startswith(("-", "${"))
        said = text.startswith("-") and secret_flag(text.partition("=")[0]) and text in reading.extra
        if by_name or (holds_secret(text) and not said):
            peeled.warn(word, f"a part of this word looks like a secret and {_AS_GIVEN}")


def _take_ours(vocabulary: Vocabulary, reading: Reading, peeled: Peeled, refused: Mapping[str, str]) -> None:
    """Take out what is llamactl's to say, each with a warning; refuse what starts no server that could be used."""
    model = reading.options.get("model")
    if vocabulary["model"].positional and isinstance(model, str) and model.startswith("-"):
        hint = "write ./ before a folder's name"
        _tokens.refuse(reading.words["model"], "a model's name cannot begin with a dash: it reads as a flag", hint)
    for name in list(reading.options):
        option, word = vocabulary[name], reading.words[name]
        if option.exits:
            _tokens.refuse(word, f"{option.flag} starts no server", "paste a command that serves a model")
        if name in refused and not _LISTENING.fullmatch(name):
            _tokens.refuse(word, f"an instance cannot have {option.flag}", refused[name])
        if option.removed is not None:
            reading.warnings.append(
                at_word(
                    word,
                    f"{option.flag} was dropped: {vocabulary.program} {vocabulary.version} refuses it; {option.removed}",
                )
            )
            del reading.options[name]
        elif name in ("host", "port"):
            del reading.options[name]
            reading.warnings.append(
                at_word(word, f"{option.flag} was dropped: llamactl assigns it (set {name} to pin it)")
            )
        elif name in refused:
            del reading.options[name]
            reading.warnings.append(at_word(word, f"{option.flag} was dropped: {refused[name]}"))
        elif option.secret:
            value = reading.options.pop(name)
            reading.warnings.append(at_word(word, f"{option.flag} was dropped: {_secret(name, value, word, peeled)}"))


def _check_values(vocabulary: Vocabulary, reading: Reading) -> None:
    """What the file could not be loaded with is refused here, where its place in the command is known."""
    for name, value in reading.options.items():
        if "${" in repr(value):  # what it holds is known when the file is loaded
            continue
        try:
            option_words(vocabulary.syntax, vocabulary[name], value)
        except ValueProblem as problem:
            hidden = looks_secret(problem.message)
            message = f"{vocabulary[name].flag} cannot take the given value" if hidden else problem.message
            _tokens.refuse(reading.words[name], message, None if hidden else problem.hint)


def _secret(name: str, value: JsonValue, word: Word, peeled: Peeled) -> str:
    """What becomes of a secret option, in words."""
    if "token" not in name:
        return _OWN_KEY
    given = value if isinstance(value, str) and _REFERENCE.fullmatch(value) else "${HF_TOKEN}"
    if "HF_TOKEN" not in peeled.environment:
        peeled.set("HF_TOKEN", given, word)
    if _docker.is_run(peeled.executable):
        _docker.hand_on(peeled.executable, "HF_TOKEN")
    return "HF_TOKEN is taken from llamactl's environment instead"


def suggest_name(options: Mapping[str, JsonValue], keys: Sequence[str], fallback: str) -> str:
    """A valid instance name out of the first of these options that is set."""
    for key in keys:
        value = options.get(key)
        if isinstance(value, list):
            value = value[0] if value else None
        if not isinstance(value, str) or looks_secret(value):
            continue
        last = _VARIABLE.sub(_UNKNOWN, value).split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        if _UNKNOWN in last:
            continue
        last = _MODEL_FILE.sub("", last).partition(":")[0]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).lstrip("._-")
        name = re.sub(rf"^(?:{NOTE_PREFIX}[._-]*)+", "", name)[:_NAME_LIMIT].rstrip("._-")
        if is_name(name):
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
