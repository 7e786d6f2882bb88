"""Everything wrong or doubtful with one instance's options, extra_args and executable, before any file position is known."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from reconciler.backends import _docker
from reconciler.backends._flags import OPTIONS, Given, option_words, resolve
from reconciler.backends._rules import broken, named
from reconciler.backends._values import ValueProblem, check_text, shown
from reconciler.backends._vocabulary import Option, Syntax, Vocabulary
from reconciler.core.addresses import is_loopback
from reconciler.core.contracts import OptionProblem
from reconciler.core.spec import InstanceSpec

_KEY_HINT = "leave it out: llamactl gives each server a random key of its own, through the environment"
_TOKEN_HINT = 'set it in the environment: {HF_TOKEN: "${HF_TOKEN}"}'


def single_host(value: JsonValue) -> str | None:
    """The one address that a ``host`` option names; None when it is not exactly one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) and value and "," not in value else None


def port_number(value: JsonValue) -> int | None:
    """The port that a ``port`` option names, 1 to 65535; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535 else None


def check_options(
    vocabulary: Vocabulary, spec: InstanceSpec, *, allow_hosts: frozenset[str], refused: Mapping[str, str]
) -> tuple[Mapping[str, Given], Sequence[OptionProblem]]:
    """The options by canonical name, and what is wrong with them. ``refused`` says why an option cannot be set."""
    given, problems = resolve(vocabulary, spec.backend_options)
    found = list(problems)
    wrong = set()
    for item in given.values():
        own = tuple(_one(vocabulary, item, spec, allow_hosts=allow_hosts, refused=refused))
        found.extend(own)
        if not all(problem.warning for problem in own):
            wrong.add(item.option.name)
    found.extend(broken(vocabulary, given, spec.extra_args, wrong=wrong))
    return given, found


def _one(
    vocabulary: Vocabulary,
    item: Given,
    spec: InstanceSpec,
    *,
    allow_hosts: frozenset[str],
    refused: Mapping[str, str],
) -> Iterator[OptionProblem]:
    option, path = item.option, (OPTIONS, item.key)
    cause = _cannot_be_set(vocabulary, option, refused)
    if cause is not None:
        yield OptionProblem(path=path, message=cause[0], hint=cause[1], on_key=True)
        return
    if option.name == "host":
        yield from check_host(path, item.value, allow_hosts=allow_hosts)
        return
    if option.name == "port":
        yield from check_port(path, item.value, spec)
        return
    try:
        option_words(vocabulary.syntax, option, item.value)
    except ValueProblem as problem:
        place = path if problem.item is None else (*path, problem.item)
        yield OptionProblem(path=place, message=_of_key(item, problem.message), hint=problem.hint)
    if option.deprecated:
        message = f"{vocabulary.program} {vocabulary.version} calls {option.flag} deprecated"
        yield OptionProblem(path=path, message=message, warning=True, on_key=True)


def _of_key(item: Given, message: str) -> str:
    """A value's problem under the name that the user wrote, and the server's own flag beside it where that is another."""
    flag = item.option.flag
    written = "--" + item.key.replace("_", "-")
    name = item.key if written == flag else f"{item.key} ({flag})"
    return f"{name} {message.removeprefix(flag).lstrip()}"


def _cannot_be_set(vocabulary: Vocabulary, option: Option, refused: Mapping[str, str]) -> tuple[str, str | None] | None:
    if option.removed:
        return f"{vocabulary.program} {vocabulary.version} no longer has {option.flag}", option.removed
    if option.exits:
        return f"{option.flag} makes {vocabulary.program} print something and end", "remove it"
    if option.secret:
        token = "token" in option.name
        return f"{option.flag} would show a secret in the process list", _TOKEN_HINT if token else _KEY_HINT
    if option.name in refused:
        return f"{option.flag} cannot be used under llamactl", refused[option.name]
    return None


def check_host(
    path: tuple[str | int, ...], value: JsonValue, *, allow_hosts: frozenset[str]
) -> Iterator[OptionProblem]:
    """A backend listens on one loopback address, or on one that the server section allows."""
    host = single_host(value)
    if host is None:
        yield OptionProblem(path=path, message=f"host takes one address, not {shown(value)}", hint="write 127.0.0.1")
    elif not is_loopback(host) and host not in allow_hosts:
        yield OptionProblem(
            path=path,
            message=f"host {shown(host)} is not a loopback address",
            hint="remove it (the proxy is what others talk to), or list it in server.allow_backend_hosts",
        )


def check_port(path: tuple[str | int, ...], value: JsonValue, spec: InstanceSpec) -> Iterator[OptionProblem]:
    """A port pins the instance to it."""
    port = port_number(value)
    if port is None:
        message = f"port takes a whole number from 1 to 65535, not {shown(value)}"
        yield OptionProblem(path=path, message=message, hint="remove it to have one assigned")
    elif spec.port is not None and spec.port != port:
        message = f"port {port} here and port {spec.port} of the instance differ"
        yield OptionProblem(path=path, message=message, hint="keep one of them")


def check_extra(
    vocabulary: Vocabulary, spec: InstanceSpec, given: Mapping[str, Given], refused: Mapping[str, str]
) -> Iterator[OptionProblem]:
    """Raw arguments pass untouched, save what would break the launch or show a secret."""
    for at, word in enumerate(spec.extra_args):
        path = ("extra_args", at)
        try:
            check_text(word, multiline=True)
        except ValueProblem as problem:
            yield OptionProblem(path=path, message=f"the argument {problem.message}", hint=problem.hint)
            continue
        if word == "--" and vocabulary.syntax is not Syntax.LLAMA:
            yield OptionProblem(
                path=path, message="-- would end the flags before llamactl adds host and port", hint="remove it"
            )
            continue
        found = vocabulary.by_flag(named(word)) if word.startswith("-") else None
        if found is None:
            continue
        option = found[0]
        cause = _cannot_be_set(vocabulary, option, refused)
        if option.name in ("host", "port"):
            hint = f"set {option.name} among the options" + (" or for the instance" if option.name == "port" else "")
            yield OptionProblem(path=path, message=f"{option.flag} is llamactl's to give", hint=hint)
        elif cause is not None:
            yield OptionProblem(path=path, message=cause[0], hint=cause[1])
        elif option.name in given:
            message = f"{option.flag} is also set as {given[option.name].key} among the options; which one wins is up to the server"
            yield OptionProblem(path=path, message=message, hint="keep one of them", warning=True)


def split_executable(text: str) -> tuple[str, ...]:
    """An executable's words, split as a shell would; raises ValueProblem for bad quoting or nothing at all."""
    try:
        check_text(text)
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueProblem(f"cannot split {shown(text)} into words: {error}", hint="close the quotes") from None
    if not words or not words[0]:
        raise ValueProblem("the executable is empty", hint="name a program")
    return words


def check_executable(spec: InstanceSpec) -> Iterator[OptionProblem]:
    """The instance's own executable, when it has one."""
    if spec.executable is None:
        return
    try:
        words = split_executable(spec.executable)
    except ValueProblem as problem:
        yield OptionProblem(path=("executable",), message=problem.message, hint=problem.hint)
        return
    if _docker.is_run(words) and "run" in words and not _docker.has_host_network(words):
        yield OptionProblem(
            path=("executable",),
            message="the container has a network of its own, so the port that llamactl assigns is not reachable",
            hint="add --network host",
            warning=True,
        )
