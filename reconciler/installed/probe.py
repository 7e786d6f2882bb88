"""Which installed programs a file needs, and loading it against their own options, read on the way.

A file can name options that only the installed version knows, so its programs are found without its options being checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from reconciler.config import load, source
from reconciler.config.schema import file_schema
from reconciler.core.contracts import Backend, OptionProblem
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import BackendsSpec, Fleet, InstanceSpec
from reconciler.installed.known import Installed, Reading, Say

EMPTY_FILE = b"instances: {}\n"


@dataclass(slots=True)
class Needed:
    """What a file says of programs."""

    backends: BackendsSpec
    file: Path | None
    """None where there is no file: the variables' and the default programs."""
    own: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
    """Kind and words of every instance that names a program of its own."""


class _Unchecked:
    """A backend that finds nothing wrong with options, and remembers what it was asked about."""

    def __init__(self, backend: Backend, asked: list[tuple[Backend, InstanceSpec, BackendsSpec | None]]) -> None:
        self._backend = backend
        self._asked = asked

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def check(
        self, spec: InstanceSpec, *, backends: BackendsSpec | None = None, allow_hosts: frozenset[str] = frozenset()
    ) -> Sequence[OptionProblem]:
        """Nothing."""
        del allow_hosts
        self._asked.append((self._backend, spec, backends))
        return ()


def needed(file: Path | None, environ: Mapping[str, str], backends: Mapping[str, Backend]) -> Needed:
    """The programs that the file names, whatever else is wrong with it; Rejected when that cannot be told.

    Without a file that was named or found, the variables and the defaults say.
    """
    try:
        path = source.find_file(file, environ)
    except Rejected:
        if file is not None or environ.get(source.PATH_VARIABLE):
            raise
        fleet = load.load_text(EMPTY_FILE, name="the variables", backends=backends, environ=environ)
        return Needed(fleet.backends, None)
    asked: list[tuple[Backend, InstanceSpec, BackendsSpec | None]] = []
    lenient = {kind: cast("Backend", _Unchecked(one, asked)) for kind, one in backends.items()}
    try:
        section = load.load(source.read(path), backends=lenient, environ=environ).backends
    except Rejected:
        sections = [found for _, _, found in asked if found is not None]
        if not sections:
            raise
        section = sections[0]  # the same for all
    result = Needed(section, path)
    for backend, spec, _ in asked:
        words = _words(backend, spec, section)
        if spec.executable is not None and backend.option_source is not None and words is not None:
            result.own.add((backend.kind, words))
    return result


def _words(backend: Backend, spec: InstanceSpec | None, section: BackendsSpec) -> tuple[str, ...] | None:
    """The program's words; None for none, and for words that cannot be split (which the file's check tells)."""
    try:
        return backend.executable(spec, section)
    except Rejected:
        return None


def with_place(problem: Problem, backend: Backend) -> Problem:
    """The same about a kind's default program, with where another one is named: a setting and a variable."""
    for variable, (section, setting) in load.OVERRIDES.items():
        if section == "backends" and backend.executable(None, BackendsSpec.model_validate({setting: "/"})) == ("/",):
            named = f"the file names it as `{section}.{setting}`, the environment as {variable}"
            return replace(problem, hint=named if problem.hint is None else f"{problem.hint}; {named}")
    return problem


class _Probed:
    """A backend that reads the options of each program before it checks an instance that runs it."""

    def __init__(self, installed: Installed, kind: str, tell: Say) -> None:
        self._installed = installed
        self._backend = installed.backends[kind]
        self._tell = tell
        self._failed: dict[tuple[str, ...], Problem | None] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def check(
        self, spec: InstanceSpec, *, backends: BackendsSpec | None = None, allow_hosts: frozenset[str] = frozenset()
    ) -> Sequence[OptionProblem]:
        """The backend's own findings, and why the program's options cannot be read if that is so."""
        section = backends or BackendsSpec()
        words = _words(self._backend, spec, section)
        failed = self._read(words, spec, section) if words is not None else None
        found = self._backend.check(spec, backends=backends, allow_hosts=allow_hosts)
        if failed is None:
            return found
        if spec.executable is not None:
            return (OptionProblem(path=("executable",), message=failed.message, hint=failed.hint), *found)
        failed = with_place(failed, self._backend)
        return (OptionProblem(path=(), message=failed.message, hint=failed.hint, on_key=True), *found)

    def _read(self, words: tuple[str, ...], spec: InstanceSpec, section: BackendsSpec) -> Problem | None:
        if words not in self._failed:
            declared = {**section.environment, **spec.environment}
            try:
                told = self._installed.read(self._backend.kind, words, declared=declared, tell=self._tell)
            except Rejected as rejected:
                self._failed[words] = rejected.problems[0]
            else:
                self._failed[words] = None
                for text in shortcomings(told):
                    self._tell(text)
        return self._failed[words]


class _Here:
    """A backend whose schema is that of the program which a section names."""

    def __init__(self, backend: Backend, section: BackendsSpec) -> None:
        self._backend = backend
        self._section = section

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def options_schema(self, backends: BackendsSpec | None = None) -> Mapping[str, object]:
        """Of the section's program, whatever is asked."""
        return self._backend.options_schema(backends or self._section)


def schema_here(section: BackendsSpec, installed: Installed) -> dict[str, Any]:
    """The JSON schema of the file with the options of the programs that the section names, as far as they were read."""
    return file_schema({kind: cast("Backend", _Here(one, section)) for kind, one in installed.backends.items()})


def shortcomings(told: Reading) -> tuple[str, ...]:
    """What a person should know of a reading that worked."""
    return tuple(f"{told.path}: {text}" for text in (told.trouble, told.caveat) if text is not None)


def load_probed(path: Path, environ: Mapping[str, str], installed: Installed, tell: Say) -> Fleet:
    """The fleet, checked against the options of every program it runs, each read now unless it is known; Rejected as a load is."""
    backends = {
        kind: cast("Backend", _Probed(installed, kind, tell)) if one.option_source is not None else one
        for kind, one in installed.backends.items()
    }
    return load.load(source.read(path), backends=backends, environ=environ)


def read_default_programs(section: BackendsSpec, installed: Installed, tell: Say) -> Mapping[str, Reading | Problem]:
    """What was read of each kind's program that the section names, or why it could not be."""
    results: dict[str, Reading | Problem] = {}
    for kind in installed.readable():
        try:
            words = installed.backends[kind].executable(None, section)
            if words is not None:
                results[kind] = installed.read(kind, words, declared=section.environment, tell=tell)
        except Rejected as rejected:
            results[kind] = with_place(rejected.problems[0], installed.backends[kind])
    return results
