"""What stands before a server's arguments in a pasted command: assignments, ``env``, wrappers, ``python -m``, ``docker run``.

Each is understood (it becomes part of ``environment`` or ``executable``) or refused with what to do instead; none is swallowed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.backends import _docker
from reconciler.backends._hide import at_word, named
from reconciler.backends._outer import CONTAINERS, DROPPED, ENV, ENV_CURES, NEVER_BETWEEN, REFUSED, WRAPPERS
from reconciler.backends._tokens import Word, refuse
from reconciler.backends._variables import alone

_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*t?")
REPOSITORY = re.compile(r"(?!\.{0,2}/|bin/)[\w.-]+/(?![\w.-]*\.(?:sh|py)$)[\w.-]+")
"""A model of a hub: ``org/name``."""


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
    modes: tuple[str, ...] = ()
    """Words of which an image of several programs needs one, to be the server."""
    modal_images: re.Pattern[str] | None = None
    """Those images."""
    variables: tuple[str, ...] = ()
    """Variables that llamactl sets for it, to be handed on into a container."""
    example: str = ""
    """A whole command, for messages."""

    def is_program(self, word: str) -> bool:
        """Whether a word names the program, by path or alone."""
        name = re.split(r"[/\\]", word)[-1].removesuffix(".exe")
        return name == self.plain or name in self.names or name in self.tails

    def is_script(self, word: str) -> bool:
        """Whether a word is a file that Python runs as the server."""
        return word.endswith(".py") and self.flat is not None and self.flat.search(word) is not None


@dataclass(slots=True)
class Peeled:
    """The command with its outer layers taken off."""

    arguments: Sequence[Word]
    environment: dict[str, str] = field(default_factory=dict)
    used_up: set[str] = field(default_factory=set)
    """Variables of the shell alone, whose values stand where the command named them."""
    places: dict[str, Word] = field(default_factory=dict)
    """Where each variable of the environment was set last."""
    executable: list[str] = field(default_factory=list)
    """Empty when none was named."""
    program: Word | None = None
    """The first word of the executable, or where it would stand."""
    warnings: list[str] = field(default_factory=list)

    def set(self, name: str, value: str, word: Word) -> None:
        """Take a variable; the last one wins, as in a shell."""
        self.environment[name] = value
        self.places[name] = word
        self.used_up.discard(name)

    def warn(self, word: Word, message: str) -> None:
        """Add a warning with its place."""
        self.warnings.append(at_word(word, message))


def peel(words: Sequence[Word], program: Program) -> Peeled:
    """Take everything off that is not the server's own arguments; raises Rejected."""
    done = Peeled(arguments=())
    at = peel_outer(words, done)
    if at >= len(words):
        if words:
            refuse(words[-1], "the command ends before any program", f"paste a whole command, as {program.example}")
        return done
    done.program = words[at]
    end = _executable(words, at, program, done)
    done.arguments = words[end:]
    return done


def peel_outer(words: Sequence[Word], done: Peeled) -> int:
    """Take assignments, ``env``, ``export`` lines and what changes nothing; the place of the first word that is none of them."""
    at = _environment(words, 0, done)
    while at < len(words) and base_name(words[at]) in DROPPED:
        name = base_name(words[at])
        done.warn(words[at], f"{name} was dropped: {DROPPED[name]}")
        at += 1
        if at < len(words) and words[at].text == "--":
            at += 1
        if at >= len(words) or words[at].text.startswith("-"):
            refuse(words[at - 1], f"cannot tell what {name} runs", "leave it out")
        at = _environment(words, at, done)
    for name in done.used_up:
        done.warn(
            done.places.pop(name), f"{name} is not exported there; its value was put in where the command names it"
        )
        del done.environment[name]
    done.used_up.clear()
    return at


def base_name(word: Word) -> str:
    """The file name of a program."""
    return word.text.rsplit("/", 1)[-1]


def _environment(words: Sequence[Word], at: int, done: Peeled) -> int:
    """Assignments, ``export`` and ``env`` in any order; the place behind them."""
    while at < len(words):
        word = words[at]
        assigned = _ASSIGNED.fullmatch(word.text) if word.assignment else None
        if assigned is not None:
            done.set(assigned[1], assigned[2], word)
            at += 1
            shell_only = alone(words, at)
            if shell_only and word.spent:
                done.used_up.add(assigned[1])
            elif shell_only:
                done.warn(word, f"{assigned[1]} is not exported there; it was taken into the environment")
        elif word.text == "export":
            at = _export(words, at + 1, done)
        elif word.text in ENV:
            at = _env(words, at + 1, done)
        else:
            break
    return at


def _export(words: Sequence[Word], at: int, done: Peeled) -> int:
    begins = at
    while at < len(words) and not words[at].fresh_line:
        assigned = _ASSIGNED.fullmatch(words[at].text)
        if assigned is not None:
            done.set(assigned[1], assigned[2], words[at])
        elif words[at].text in done.environment:
            done.used_up.discard(words[at].text)
        else:
            refuse(
                words[at], "export only sets variables", "write export NAME=value, and the command on a line of its own"
            )
        at += 1
    if at == begins:
        refuse(words[at - 1], "this export sets nothing", "write export NAME=value")
    return at


def _env(words: Sequence[Word], at: int, done: Peeled) -> int:
    """The arguments of ``env``, which are assignments whether quoted or not."""
    while at < len(words):
        text = words[at].text
        assigned = _ASSIGNED.fullmatch(text)
        if text == "--":
            return at + 1
        if text.startswith("-"):
            name = text.partition("=")[0] if text.startswith("--") else text[:2]
            cure = ENV_CURES.get(name, "name the variables under environment in the instance")
            refuse(words[at], f"env {name} cannot be carried over", cure)
        if assigned is None:
            return at
        done.set(assigned[1], assigned[2], words[at])
        at += 1
    return at


def _executable(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    """Collect the words that name the program; the place of its first argument."""
    first = words[at]
    name = base_name(first)
    if first.text.startswith("-") or first.text == program.subcommand:
        return at + (first.text == program.subcommand)
    if name in REFUSED:
        refuse(first, f"cannot carry {name} over", REFUSED[name])
    if name in CONTAINERS:
        return _container(words, at, program, done)
    if program.is_program(first.text) or _PYTHON.fullmatch(name):
        return _program(words, at, program, done)
    if name in WRAPPERS:
        return _behind_wrapper(words, at, program, done)
    if program.subcommand is not None and REPOSITORY.fullmatch(first.text):
        return at  # arguments alone, the model first
    refuse(first, f"{named(first.text)} is not {program.plain}", f"paste a command such as {program.example}")


def _behind_wrapper(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    found = list(_candidates(words, at, program))
    place = next((place for place in found if _begins(words, place, program)), found[0] if found else None)
    if place is None:
        for word in words[at + 1 :]:
            _never_between(word)
        name = base_name(words[at])
        refuse(words[at], f"cannot find {program.plain} behind {name}", f"paste a command such as {program.example}")
    between = at
    while between < place:
        word = words[between]
        _never_between(word)
        following = words[between + 1].text
        if word.text in ENV and _ASSIGNED.fullmatch(following):
            between = min(_env(words, between + 1, done), place)
        else:
            done.executable.append(word.text)
            between += 1
    if words[place].text in program.modules:  # uv run -m MODULE
        return _module(words, place, program, done)
    return _program(words, place, program, done)


def _never_between(word: Word) -> None:
    if word.text in NEVER_BETWEEN:
        refuse(word, f"cannot carry {word.text} over", REFUSED[word.text])


def _candidates(words: Sequence[Word], at: int, program: Program) -> Iterator[int]:
    for place in range(at + 1, len(words)):
        word = words[place]
        if (
            program.is_program(word.text)
            or (words[place - 1].text in ("-m", "--module") and word.text in program.modules)
            or (_PYTHON.fullmatch(base_name(word)) and _runs_server(words, place, program))
        ):
            yield place


def _begins(words: Sequence[Word], at: int, program: Program) -> bool:
    """Whether the program starts here, and the word is not the value of a wrapper's option that is called as it is."""
    text = words[at].text
    if not program.is_program(text):
        return True
    name = re.split(r"[/\\]", text)[-1].removesuffix(".exe")
    wanted = program.tails.get(name) or program.subcommand
    if wanted is not None:
        return at + 1 < len(words) and words[at + 1].text == wanted
    before = words[at - 1].text
    return not before.startswith("-") or before == "--" or "=" in before


def _runs_server(words: Sequence[Word], at: int, program: Program) -> bool:
    """Whether a python at this place is told to run something: a module, the server's file or its own program."""
    following = [word.text for word in words[at + 1 : at + 6]]
    return any(text.startswith("-m") or program.is_script(text) or program.is_program(text) for text in following)


def _program(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    """From the program's own word (or a python that runs it) to the first argument."""
    if not program.is_program(words[at].text):
        return _python(words, at, program, done)
    name = re.split(r"[/\\]", words[at].text)[-1].removesuffix(".exe")
    done.executable.append(words[at].text)
    end = _tail(words, at, program.tails.get(name), done)
    return _subcommand(words, end, program, done)


def _python(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    done.executable.append(words[at].text)
    return _behind_python(words, at + 1, program, done)


def _behind_python(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    """From a python's first argument to the server's."""
    place = at
    while place < len(words) and words[place].text.startswith("-") and not words[place].text.startswith("-m"):
        if words[place].text == "-c":
            refuse(words[place], "cannot look into python -c", f"paste a command such as {program.example}")
        done.executable.append(words[place].text)
        place += 1
        if done.executable[-1] in ("-W", "-X") and place < len(words):
            done.executable.append(words[place].text)
            place += 1
    following = words[place] if place < len(words) else None
    if following is not None and following.text.startswith("-m"):
        glued = following.text[2:]
        if glued:
            return _module(words, place, program, done, glued)
        done.executable.append("-m")
        if place + 1 >= len(words):
            refuse(
                following, "python -m wants a module, and none follows", f"paste a command such as {program.example}"
            )
        return _module(words, place + 1, program, done)
    if following is not None and program.is_script(following.text):
        done.executable.append(following.text)
        return place + 1
    if following is not None and program.is_program(following.text):
        return _program(words, place, program, done)
    message = f"cannot find {program.plain} behind python"
    refuse(words[min(at, len(words)) - 1], message, f"paste a command such as {program.example}")


def _module(words: Sequence[Word], at: int, program: Program, done: Peeled, glued: str | None = None) -> int:
    """From a module's name; ``glued`` is one that its ``-m`` is part of the word."""
    name = words[at].text if glued is None else glued
    if name not in program.modules:
        known = ", ".join(program.modules) or "none"
        cure = f"known here: {known}; or declare the command as backend_type custom"
        refuse(words[at], f"this python module is not {program.plain}", cure)
    done.executable.extend(("-m", name) if glued is not None else (name,))
    end = _tail(words, at, program.modules[name], done)
    return _subcommand(words, end, program, done)


def _tail(words: Sequence[Word], at: int, tail: str | None, done: Peeled) -> int:
    if tail is None:
        return at + 1
    if at + 1 >= len(words) or words[at + 1].text != tail:
        refuse(words[min(at + 1, len(words) - 1)], f"expected {tail} behind {named(words[at].text)}")
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


def _container(words: Sequence[Word], at: int, program: Program, done: Peeled) -> int:
    """``docker run … IMAGE``. Its own command may name the program again; an ``--entrypoint`` stands for it."""
    run = _docker.peel_run(words, at, variables=program.variables)
    done.executable.extend(run.executable)
    done.warnings.extend(run.warnings)
    for name, (value, word) in run.environment.items():
        done.set(name, value, word)
    at = run.end
    entry, image = _docker.entrypoint(done.executable), done.executable[-1]
    if entry is not None and program.is_program(entry):
        return _subcommand(words, at, program, done)
    if entry is not None and _PYTHON.fullmatch(entry.rsplit("/", 1)[-1]):
        return _behind_python(words, at, program, done)
    if entry is None:
        if at < len(words) and program.is_program(words[at].text):
            return _program(words, at, program, done)
        if at < len(words) and _PYTHON.fullmatch(base_name(words[at])):
            return _python(words, at, program, done)
        if program.modal_images is not None and program.modal_images.search(image):
            if at < len(words) and words[at].text in program.modes:
                done.executable.append(words[at].text)
                return at + 1
            refuse(words[at - 1], "this image holds several programs", f"write {program.modes[0]} first behind it")
        if program.images is not None and program.images.search(image):
            return at
    place = words[at] if at < len(words) else words[-1]
    refuse(place, f"cannot tell what the image starts, or it is not {program.plain}", "name it with --entrypoint")


def program_place(words: Sequence[str], program: Program) -> int | None:
    """Where a command names this program, wrapped or not, as far as its words tell; None where it does not. Never raises."""
    wrapped = False
    for at, word in enumerate(words):
        name = word.rsplit("/", 1)[-1]
        images = (program.images, program.modal_images)
        if program.is_program(word) or (wrapped and any(image and image.search(word) for image in images)):
            return at
        if word in ("-m", "--module") and at + 1 < len(words) and words[at + 1] in program.modules:
            return at
        if wrapped and (program.is_script(word) or word.removeprefix("-m") in program.modules):
            return at
        if not wrapped and word == program.subcommand:
            return at
        wrapped = wrapped or name in WRAPPERS | CONTAINERS | REFUSED.keys() or _PYTHON.fullmatch(name) is not None
        if not wrapped and not _ASSIGNED.fullmatch(word) and name not in DROPPED and word not in ENV | {"export", "--"}:
            return None
    return None


def quoted(executable: Sequence[str]) -> str:
    """An executable as the file holds it, split again by the launch."""
    return shlex.join(executable)
