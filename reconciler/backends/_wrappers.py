"""What stands before a server's arguments in a pasted command: assignments, ``env``, wrappers, ``python -m``, ``docker run``.

Each is understood (it becomes part of ``environment`` or ``executable``) or refused with what to do instead; none is swallowed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.backends import _docker
from reconciler.backends._tokens import Word, refuse
from reconciler.backends._values import shown

_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*t?")
_DROPPED = {
    "nohup": "llamactl keeps its servers running by itself",
    "exec": "llamactl starts the program directly",
    "command": "llamactl starts the program directly",
    "setsid": "llamactl gives every server its own session",
    "time": "it only measures",
}
_KEPT = frozenset(
    {
        *("nice", "ionice", "taskset", "numactl", "chrt", "stdbuf", "setarch"),
        *("uv", "uvx", "poetry", "pipenv", "pdm", "rye", "pixi", "hatch", "conda", "mamba", "micromamba"),
        *("apptainer", "singularity", "llamactl"),
    }
)
"""Programs that become, or directly run, the program behind them."""
_INNER = "paste the server's own command, without what stands around it"
_REFUSED = {
    "sudo": "run llamactl itself as the user that the server needs; leave sudo out",
    "doas": "run llamactl itself as the user that the server needs; leave doas out",
    "su": "run llamactl itself as the user that the server needs; leave su out",
    "runuser": "run llamactl itself as the user that the server needs; leave runuser out",
    "timeout": "leave timeout out; start_timeout, idle_timeout and restart are settings of an instance",
    "systemd-run": _INNER,
    "ssh": "run llamactl on that host and paste the inner command, or declare the server as external",
    "tmux": _INNER,
    "screen": _INNER,
    "bash": _INNER,
    "sh": _INNER,
    "zsh": _INNER,
    "dash": _INNER,
    "fish": _INNER,
    "cd": "set working_directory in place of cd, and paste the server's own command",
    "source": "give the path of the program in that environment, as /path/to/venv/bin/NAME",
    ".": "give the path of the program in that environment, as /path/to/venv/bin/NAME",
    "eval": _INNER,
    "xargs": _INNER,
    "watch": _INNER,
    "torchrun": "let the server start its own workers",
    "mpirun": "paste the command of one process",
    "srun": "run llamactl inside the allocation and paste the inner command",
    "docker-compose": "paste the server's own command, as the service has it under command:",
    "kubectl": _INNER,
}
_CONTAINERS = frozenset({"docker", "podman", "nerdctl"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How one server is called on a command line."""

    plain: str
    """The name that needs no ``executable``."""
    names: frozenset[str]
    """Further file names of the same program."""
    modules: Mapping[str, str | None]
    """Python modules, each with the word that must follow it and belongs to it."""
    tails: Mapping[str, str] = field(default_factory=dict)
    """File names that need such a word."""
    subcommand: str | None = None
    """Stands between program and arguments, and is put there by the launch."""
    flat: re.Pattern[str] | None = None
    """Programs, modules and images (as the last word of an executable) that take no subcommand."""
    images: re.Pattern[str] | None = None
    """Container images whose entry point is the server."""
    variables: tuple[str, ...] = ()
    """Variables that llamactl sets for it, to be handed on into a container."""
    example: str = ""
    """A whole command, for messages."""

    def is_program(self, word: str) -> bool:
        """Whether a word names the program, by path or alone."""
        name = re.split(r"[/\\]", word)[-1].removesuffix(".exe")
        return name == self.plain or name in self.names or name in self.tails


@dataclass(slots=True)
class Peeled:
    """The command with its outer layers taken off."""

    arguments: Sequence[Word]
    environment: dict[str, str] = field(default_factory=dict)
    executable: list[str] = field(default_factory=list)
    """Empty when none was named."""
    warnings: list[str] = field(default_factory=list)


def peel(words: Sequence[Word], program: Program) -> Peeled:
    """Take everything off that is not the server's own arguments; raises Rejected."""
    done = Peeled(arguments=())
    at = _environment(words, 0, done)
    while at < len(words) and words[at].text in _DROPPED:
        done.warnings.append(f"{words[at].place}: {words[at].text} was dropped: {_DROPPED[words[at].text]}")
        following = words[at + 1] if at + 1 < len(words) else None
        if following is None or following.text.startswith("-"):
            refuse(words[at], f"cannot tell what {words[at].text} runs", "leave it out")
        at = _environment(words, at + 1, done)
    if at >= len(words):
        if words:
            refuse(words[-1], "the command ends before any program", f"paste a whole command, as {program.example}")
        return done
    end = _executable(words, at, program, done)
    done.arguments = words[end:]
    return done


def _environment(words: Sequence[Word], at: int, done: Peeled) -> int:
    """Assignments and ``env`` in any order; the place behind them."""
    while at < len(words):
        word = words[at]
        assigned = _ASSIGNED.fullmatch(word.text) if word.assignment else None
        if assigned is not None:
            done.environment[assigned[1]] = assigned[2]
            at += 1
        elif word.text == "export" and at + 1 < len(words) and words[at + 1].assignment:
            at += 1
        elif word.text in ("env", "/usr/bin/env"):
            at = _env_command(words, at + 1)
        else:
            break
    return at


def _env_command(words: Sequence[Word], at: int) -> int:
    if at < len(words) and words[at].text == "--":
        return at + 1
    if at < len(words) and words[at].text.startswith("-"):
        option = words[at].text
        hint = {
            "-i": "set inherit_environment: false in the instance",
            "--ignore-environment": "set inherit_environment: false in the instance",
            "-u": "set the variable to null under environment in the instance",
        }.get(option, "name the variables under environment in the instance")
        refuse(words[at], f"env {option} cannot be carried over", hint)
    return at


def _executable(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    """Collect the words that name the program; the place of its first argument."""
    first = words[at]
    name = first.text.rsplit("/", 1)[-1]
    if first.text.startswith("-") or first.text == program.subcommand:
        return at + (first.text == program.subcommand)
    if name in _REFUSED:
        refuse(first, f"cannot carry {name} over", _REFUSED[name])
    if name in _CONTAINERS:
        end = _docker.peel_run(words, at, done.environment, done.executable, done.warnings, variables=program.variables)
        return _behind_container(words, end, program, done)
    if program.is_program(first.text) or _PYTHON.fullmatch(name):
        return _program(words, at, program, done)
    if name in _KEPT:
        for place in range(at, len(words)):
            word = words[place]
            python = _PYTHON.fullmatch(word.text.rsplit("/", 1)[-1]) and _module_follows(words, place)
            if place > at and (program.is_program(word.text) or python):
                done.executable.extend(earlier.text for earlier in words[at:place])
                return _program(words, place, program, done)
        refuse(first, f"cannot find {program.plain} behind {name}", f"paste a command such as {program.example}")
    if program.subcommand is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", first.text) and "/bin/" not in first.text:
        return at  # arguments alone, the model first
    refuse(first, f"{shown(first.text)} is not {program.plain}", f"paste a command such as {program.example}")


def _module_follows(words: Sequence[Word], at: int) -> bool:
    return any(word.text == "-m" for word in words[at + 1 : at + 4])


def _program(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    """From the program's own word (or a python that runs it) to the first argument."""
    if not program.is_program(words[at].text):
        return _python(words, at, program, done)
    name = re.split(r"[/\\]", words[at].text)[-1].removesuffix(".exe")
    done.executable.append(words[at].text)
    end = _tail(words, at, program.tails.get(name), done)
    return _subcommand(words, end, program, done)


def _python(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    place = at
    done.executable.append(words[place].text)
    place += 1
    while place < len(words) and words[place].text.startswith("-") and words[place].text != "-m":
        if words[place].text == "-c":
            refuse(words[place], "cannot look into python -c", f"paste a command such as {program.example}")
        done.executable.append(words[place].text)
        place += 1
        if done.executable[-1] in ("-W", "-X") and place < len(words):
            done.executable.append(words[place].text)
            place += 1
    if place < len(words) and words[place].text == "-m":
        module = words[place + 1] if place + 1 < len(words) else None
        if module is None or module.text not in program.modules:
            refuse(
                module or words[place],
                f"this python module is not {program.plain}",
                f"known here: {', '.join(program.modules) or 'none'}; or declare the command as backend_type custom",
            )
        done.executable.extend(("-m", module.text))
        end = _tail(words, place + 1, program.modules[module.text], done)
        return _subcommand(words, end, program, done)
    if place < len(words) and program.is_program(words[place].text):
        return _program(words, place, program, done)
    refuse(words[at], f"cannot find {program.plain} behind python", f"paste a command such as {program.example}")


def _tail(words: Sequence[Word], at: int, tail: str | None, done: Peeled) -> int:
    if tail is None:
        return at + 1
    if at + 1 >= len(words) or words[at + 1].text != tail:
        refuse(words[min(at + 1, len(words) - 1)], f"expected {tail} behind {words[at].text}")
    done.executable.append(tail)
    return at + 2


def _subcommand(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    if program.subcommand is None or (program.flat is not None and program.flat.search(done.executable[-1])):
        return at
    if at >= len(words) or words[at].text != program.subcommand:
        place = words[at] if at < len(words) else words[-1]
        refuse(
            place,
            f"only {program.plain} {program.subcommand} starts a server",
            f"paste a command such as {program.example}",
        )
    return at + 1


def _behind_container(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    """The container's own command may name the program again; an ``--entrypoint`` stands for it."""
    entry = _docker.entrypoint(done.executable)
    if entry is None and at < len(words) and program.is_program(words[at].text):
        return _program(words, at, program, done)
    if entry is None and at < len(words) and _PYTHON.fullmatch(words[at].text.rsplit("/", 1)[-1]):
        return _python(words, at, program, done)
    if entry is not None and program.is_program(entry):
        return _subcommand(words, at, program, done)
    if entry is None and program.images is not None and program.images.search(done.executable[-1]):
        return at
    place = words[at] if at < len(words) else words[-1]
    refuse(place, f"cannot tell what the image starts, or it is not {program.plain}", "name it with --entrypoint")


def names_program(words: Sequence[str], program: Program) -> bool:
    """Whether the first words of a command are this program's, wrapped or not; never raises."""
    wrapped = False
    for at, word in enumerate(words):
        name = word.rsplit("/", 1)[-1]
        if program.is_program(word) or (wrapped and program.images is not None and program.images.search(word)):
            return True
        if word == "-m" and at + 1 < len(words) and words[at + 1] in program.modules:
            return True
        if not wrapped and word == program.subcommand:
            return True
        wrapped = wrapped or name in _KEPT | _CONTAINERS | _REFUSED.keys() or _PYTHON.fullmatch(name) is not None
        if not wrapped and not _ASSIGNED.fullmatch(word) and name not in _DROPPED | {"env": "", "export": ""}:
            return False
    return False


def quoted(executable: Sequence[str]) -> str:
    """An executable as the file holds it, split again by the launch."""
    return shlex.join(executable)
