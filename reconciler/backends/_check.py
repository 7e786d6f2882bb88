"""Everything wrong or doubtful with one instance's options, extra_args and executable, before any file position is known."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from pydantic import JsonValue

from reconciler.backends import _docker
from reconciler.backends._flags import OPTIONS, Given, lacks, option_words, resolve
from reconciler.backends._hide import SLIP, flag_named
from reconciler.backends._rules import broken
from reconciler.backends._values import ValueProblem, check_text, shown
from reconciler.backends._vocabulary import Kind, Option, Syntax, Vocabulary
from reconciler.core.addresses import is_loopback
from reconciler.core.contracts import OptionProblem
from reconciler.core.spec import InstanceSpec

_KEY_HINT = "leave it out: llamactl gives each server a random key of its own, through the environment"
_FLAG_LIKE = re.compile(r"--?[\w-]+")
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
    cause = _cannot_be_set(vocabulary, option, refused, written="--" + item.key.replace("_", "-"))
    if cause is not None:
        yield OptionProblem(path=path, message=cause[0], hint=cause[1], on_key=True)
        return
    if option.name == "host":
        yield from check_host(path, item.value, allow_hosts=allow_hosts)
        return
    if option.name == "port":
        yield from check_port(path, item.value, spec)
        return
    wrong = _value_problem(vocabulary, item, option)
    if wrong is None and option.doubted:
        wrong = _value_problem(vocabulary, item, replace(option, doubted=False))
    if wrong is not None:
        yield wrong
    if option.deprecated:
        message = f"{vocabulary.program} {vocabulary.version} calls {option.flag} deprecated"
        yield OptionProblem(path=path, message=message, warning=True, on_key=True)


def _value_problem(vocabulary: Vocabulary, item: Given, option: Option) -> OptionProblem | None:
    """What is wrong with the value under this reading of its option; a warning where only doubted limits speak against it."""
    try:
        option_words(vocabulary.syntax, option, item.value)
    except ValueProblem as problem:
        path: tuple[str | int, ...] = (OPTIONS, item.key)
        return OptionProblem(
            path=path if problem.item is None else (*path, problem.item),
            message=_of_key(item, problem.message),
            hint=problem.hint,
            warning=option is not item.option,
        )
    return None


def _of_key(item: Given, message: str) -> str:
    """A value's problem under the name that the user wrote, and the server's own flag beside it where that is another."""
    flag = item.option.flag
    name = item.key if item.key == flag.lstrip("-") else f"{item.key} ({flag})"
    return f"{name} {message.removeprefix(flag).lstrip()}"


def _cannot_be_set(
    vocabulary: Vocabulary, option: Option, refused: Mapping[str, str], *, written: str
) -> tuple[str, str | None] | None:
    """Why an option may not be given at all, and what to do; ``written`` is its flag as the user wrote it."""
    if option.removed:
        return f"{vocabulary.program} {vocabulary.version} no longer has {written}", option.removed
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
    """Raw arguments pass untouched, save what would break the launch or show a secret; what looks like a slip is warned of."""
    is_value = False
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
        found = vocabulary.meant(word)
        if found is None:
            if not is_value:
                yield from _doubtful(vocabulary, path, word)
        else:
            yield from _known(vocabulary, path, word, given=given, refused=refused, found=found)
        takes = found is not None and found[1].kind is not Kind.SWITCH
        is_value = (
            takes and not is_value and vocabulary.syntax is Syntax.LLAMA
        )  # where it is one whatever it looks like


def _known(
    vocabulary: Vocabulary,
    path: tuple[str | int, ...],
    word: str,
    *,
    given: Mapping[str, Given],
    refused: Mapping[str, str],
    found: tuple[str, Option, bool],
) -> Iterator[OptionProblem]:
    """What is wrong with a raw argument that is one of the server's flags, in whatever spelling."""
    flag, option, _ = found
    cause = _cannot_be_set(vocabulary, option, refused, written=flag)
    written = _FLAG_LIKE.match(word)
    short = f" ({written[0]} is read as {flag})" if written is not None and by_another_name(written[0], flag) else ""
    if option.name in ("host", "port"):
        hint = f"set {option.name} among the options" + (" or for the instance" if option.name == "port" else "")
        yield OptionProblem(path=path, message=f"{option.flag} is llamactl's to give{short}", hint=hint)
    elif cause is not None:
        yield OptionProblem(path=path, message=cause[0] + short, hint=cause[1])
    elif short and (gone := vocabulary.gone_flag(word.partition("=")[0])) is not None:
        message = f"{lacks(vocabulary, written[0] if written else flag, gone)}{short}"
        yield OptionProblem(path=path, message=message, hint=gone.hint, warning=True)
    elif option.name in given:
        message = f"{option.flag} is also set as {given[option.name].key} among the options; which one wins is up to the server"
        yield OptionProblem(path=path, message=message + short, hint="keep one of them", warning=True)
    elif re.match(r"\S+\s", word.partition("=")[0]):
        message = f"{option.flag} and its value are one argument here, which {vocabulary.program} does not take apart"
        yield OptionProblem(path=path, message=message, hint="write them as two items", warning=True)


def by_another_name(written: str, flag: str) -> bool:
    """Whether a flag was not written in full; dashes and underscores are one."""
    return written.replace("_", "-") != flag.replace("_", "-")


def _doubtful(vocabulary: Vocabulary, path: tuple[str | int, ...], word: str) -> Iterator[OptionProblem]:
    """A flag that the server had once, or that is a slip away from one it has. Any other may be newer than what is known here."""
    name = word.partition("=")[0]
    written = flag_named(name)
    if written != name or not name.startswith("--"):  # no flag, or one that a message may not repeat
        return
    gone = vocabulary.gone_flag(name)
    if gone is not None:
        yield OptionProblem(path=path, message=lacks(vocabulary, name, gone), hint=gone.hint, warning=True)
        return
    near = vocabulary.nearest_flag(name)
    if near is not None and SequenceMatcher(None, name.replace("_", "-").lower(), near).ratio() >= SLIP:
        message = f"{vocabulary.program} {vocabulary.version} has no option {name}"
        meant = vocabulary.by_flag(near)
        secret = (
            _cannot_be_set(vocabulary, meant[0], {}, written=near) if meant is not None and meant[0].secret else None
        )
        hint = f"did you mean {near}?" if secret is None else secret[1]
        yield OptionProblem(path=path, message=message, hint=hint, warning=secret is None)


_SHELL = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>>", "2>&1", "&>", "|&"})
"""Words that mean something to a shell only."""


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
    operators = [word for word in words if word in _SHELL]
    if operators:
        yield OptionProblem(
            path=("executable",),
            message=f"no shell is involved: {operators[0]} and what follows become arguments of {shown(words[0])}",
            hint="put it into a script and name that, or remove it",
            warning=True,
        )
    if _docker.is_run(words) and "run" in words and not _docker.has_host_network(words):
        yield OptionProblem(
            path=("executable",),
            message="the container has a network of its own, so the port that llamactl assigns is not reachable",
            hint="add --network host",
            warning=True,
        )
