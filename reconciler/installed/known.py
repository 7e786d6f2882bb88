"""The options of the programs that are installed here: read on demand, kept in the state folder, used at every load from then on.

Glue between the backends (how options are read), the host (finding, asking, keeping) and whoever loads a file. A table counts only
for the program it was read from. After the program changed its last table counts until it is read anew, and that is said: an
upgrade must not make a file invalid that was valid a minute ago.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from reconciler.backends import discover
from reconciler.core.contracts import Backend
from reconciler.core.errors import Problem, Rejected
from reconciler.core.options import OptionSource, OptionTable
from reconciler.core.printed import shown as printed
from reconciler.core.spec import BackendsSpec, InstanceSpec
from reconciler.host import programs, reading
from reconciler.host.clock import SystemClock, rfc3339
from reconciler.host.programs import Identity, Program
from reconciler.host.tables import Kept, Tables

log = logging.getLogger("llamactl.installed")

NO_TABLE = (KeyError, TypeError, ValueError, AttributeError, Rejected)
"""What a backend raises for a table that is none."""
Say = Callable[[str], None]
"""Told one sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a load went by for one program."""

    kind: str
    path: str
    used: str
    """Name and version of the table that was used."""
    outdated: bool = False
    """It was read before the program changed, or by another version of llamactl."""
    text: str
    """A sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The options of one installed program."""

    kind: str
    path: str
    label: str
    """Name and version: ``vllm serve 0.32.0``."""
    table: OptionTable
    read_at: str
    """RFC 3339."""
    cached: bool
    """Nothing was run: it was read before, and the program is the same."""
    file: Path | None = None
    """Where it is kept; None when it was not written now."""
    trouble: str | None = None
    """Why it could not be kept."""
    caveat: str | None = None


def label_of(table: OptionTable) -> str:
    """Name and version of the server whose options these are."""
    return f"{table.get('program') or table.get('backend')} {table.get('version')}"


class Installed:
    """What is known of this host's programs. One for as long as the state folder is the same; for several threads."""

    def __init__(
        self,
        environ: Mapping[str, str],
        folder: Path,
        *,
        say: Say = log.warning,
        known: Mapping[str, Backend] | None = None,
    ) -> None:
        """``folder`` is the state folder; ``say`` is told, once each, what does not count and why; ``known`` is for tests."""
        self._environ = environ
        self._known = known if known is not None else discover()
        self._say = say
        self._tables = Tables(folder, say)
        self._fresh: list[Kept] = []
        self._identities: dict[tuple[Program, str | None, str | None], Identity] = {}
        self._built: dict[int, tuple[Kept, bool]] = {}
        self._told: dict[tuple[str, str], Note] = {}
        self._lock = threading.RLock()
        self.backends: Mapping[str, Backend] = {
            kind: one.informed(partial(self.lookup, kind)) if one.option_source is not None else one
            for kind, one in self._known.items()
        }
        """Every backend, each informed of what was read from its installed programs."""

    @property
    def notes(self) -> tuple[Note, ...]:
        """What the loads so far went by, one for each program of which a table is kept."""
        return tuple(self._told.values())

    @property
    def unreadable(self) -> str | None:
        """Why the folder of tables could not be looked into the last time; None when it could."""
        return self._tables.unreadable

    def kind_of(self, name: str) -> str | None:
        """The backend that a person means, by its kind or one of its routes, if its options can be read; None for any other."""
        folded = name.replace("-", "_")
        for kind, one in self._known.items():
            routes = {route.replace("-", "_") for route in one.parse_routes}
            if one.option_source is not None and folded in {kind, *routes}:
                return kind
        return None

    def readable(self) -> tuple[str, ...]:
        """The kinds whose options can be read."""
        return tuple(kind for kind, one in self._known.items() if one.option_source is not None)

    def lookup(self, kind: str, words: tuple[str, ...]) -> OptionTable | None:
        """The table that was last read from the program these words start. Costs next to nothing where none is kept."""
        with self._lock:
            kept = [one for one in self._fresh if one.kind == kind] + list(self._tables.of(kind))
            option_source = self._known[kind].option_source
            if not kept or option_source is None:
                return None
            try:
                program = _find(words, self._environ, option_source)
                hit = self._match(program, option_source, kept)
            except Rejected:  # what is wrong with the program is told by who starts or reads it
                return None
            if hit is None:
                return self._outdated(kind, words, program, option_source, kept)
            label = label_of(hit.table)
            self._note(
                Note(kind=kind, path=program.path, used=label, text=f"options of {label}, read from {program.path}")
            )
            return hit.table

    def _match(self, program: Program, option_source: OptionSource, kept: Sequence[Kept]) -> Kept | None:
        reader = _reader(option_source)
        for one in kept:
            if not programs.same(one.program, program) or one.reader != reader:
                continue
            if not programs.unchanged(one.identity.seen):
                now = self._identify(program, option_source.distribution, one.identity.site)
                if now.digest != one.identity.digest:
                    continue
            if self._makes_sense(one):
                return one
        return None

    def _identify(self, program: Program, distribution: str | None, site: str | None) -> Identity:
        """As :func:`programs.identify`, with large files read once as long as they stay as they are."""
        known = self._identities.get((program, distribution, site))
        if known is None or not programs.unchanged(known.seen):
            known = self._identities[program, distribution, site] = programs.identify(program, distribution, site)
        return known

    def _makes_sense(self, kept: Kept) -> bool:
        """Whether the backend takes the table; one that it does not take is put aside. Tried once for each table."""
        known = self._built.get(id(kept))
        if known is None or known[0] is not kept:
            reason = _refusal(self._known[kept.kind], kept.table)
            if reason is not None:
                self._tables.reject(kept, reason)
            known = self._built[id(kept)] = (kept, reason is None)
        return known[1]

    def _outdated(
        self, kind: str, words: tuple[str, ...], program: Program, option_source: OptionSource, kept: Sequence[Kept]
    ) -> OptionTable | None:
        """The newest table of the same file from when it was another program, or read by another llamactl; it is told."""
        same = [one for one in kept if one.program.command == program.command and self._makes_sense(one)]
        if not same:
            return None
        last = max(same, key=lambda one: one.read_at)
        backend = self._known[kind]
        command = f"llamactl vocabulary {(*backend.parse_routes, kind)[0]}"
        if words != backend.executable(None, BackendsSpec()):
            command += f" --executable {shlex.quote(shlex.join(words))}"
        why = "by another version of llamactl" if last.reader != _reader(option_source) else "before it changed"
        label = label_of(last.table)
        text = f"the options of {program.path} were read {why}; run `{command}` (until then those of {label} count)"
        self._note(Note(kind=kind, path=program.path, used=label, outdated=True, text=text))
        return last.table

    def _note(self, note: Note) -> None:
        if self._told.get((note.kind, note.path)) != note:
            self._told[note.kind, note.path] = note
            if note.outdated:
                self._say(note.text)
            else:
                log.info("%s", note.text)

    def read(
        self,
        kind: str,
        words: tuple[str, ...],
        *,
        refresh: bool = False,
        declared: Mapping[str, str | None] | None = None,
        tell: Say = log.info,
    ) -> Reading:
        """The options of the program that these words start: what was kept if it is still the same, else by asking it.

        ``declared`` are variables that it needs. Rejected, with a code of ``host/programs`` or ``host/reading``, when it cannot be read.
        """
        backend = self._known[kind]
        option_source = backend.option_source
        if option_source is None:
            raise Rejected(Problem(message=f"{kind} has no installed program whose options could be read"))
        program = _find(words, self._environ, option_source)
        with self._lock:
            kept = [one for one in self._fresh if one.kind == kind] + list(self._tables.of(kind))
            hit = None if refresh else self._match(program, option_source, kept)
        if hit is not None:
            return _as_reading(hit, cached=True)
        tell(f"reading the options of {program.path} ...")
        site = None
        distribution = option_source.distribution
        identity = programs.identify(program, distribution)
        if distribution is not None and program.interpreter and identity.site is None:
            site = reading.site_of(program, distribution, self._environ)
            identity = programs.identify(program, distribution, site)
        output = reading.ask(program, option_source, self._environ, declared=declared)
        table = _table(backend, program, option_source, output)
        before, identity = identity, programs.identify(program, distribution, site)
        if identity.digest != before.digest:
            hint = "try again when its installation is over"
            raise Rejected(Problem(message=f"{program.path} changed while it was read", hint=hint, code=reading.FAILED))
        if distribution is not None and identity.site is None:
            program = replace(
                program, caveat=f"nothing here tells the version of {distribution}: a change of it is not noticed"
            )
        made = Kept(
            kind=kind,
            program=program,
            identity=identity,
            reader=_reader(option_source),
            read_at=rfc3339(SystemClock().now()),
            table=table,
        )
        return self._keep(made)

    def _keep(self, made: Kept) -> Reading:
        with self._lock:
            self._fresh = [made, *(one for one in self._fresh if not programs.same(one.program, made.program))]
            try:
                file = self._tables.keep(made)
            except OSError as error:
                place = error.filename or self._tables.folder
                trouble = f"cannot keep it in {place}: {error.strerror or error}; it counts for this run only"
                return replace(_as_reading(made, cached=False), trouble=trouble)
        return replace(_as_reading(made, cached=False), file=file)


def _find(words: Sequence[str], environ: Mapping[str, str], option_source: OptionSource) -> Program:
    return programs.find(words, environ=environ, directory=os.getcwd(), python=option_source.script is not None)


def _reader(option_source: OptionSource) -> str:
    """Digest of the way in which options are read."""
    parts = [
        option_source.script,
        list(option_source.arguments),
        list(option_source.version_arguments),
        sorted(option_source.environment.items()),
        option_source.distribution,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _refusal(backend: Backend, table: OptionTable) -> str | None:
    """Why a backend cannot work with this table; None when it can."""
    try:
        backend.informed(lambda _: table).check(InstanceSpec(backend_type=backend.kind), backends=BackendsSpec())
    except NO_TABLE as error:
        return printed(f"the table makes no sense ({type(error).__name__}: {error})")[:200]
    return None


def _table(backend: Backend, program: Program, option_source: OptionSource, output: str) -> OptionTable:
    """What the program printed, understood, as plain data; Rejected when it is nothing of the kind."""
    run = shlex.join((*program.command, *(option_source.arguments or ("--help",))))
    hint = f"run `{run}` by hand and see that it is the right program; until then the packaged options are used"
    try:
        table: OptionTable = json.loads(json.dumps(backend.read_options(output)))
    except Rejected as rejected:
        told = "; ".join(problem.message for problem in rejected.problems)
        message = f"cannot understand what {program.path} told of its options: {told}"
        raise Rejected(Problem(message=message, hint=hint, code=reading.FAILED)) from None
    if (reason := _refusal(backend, table)) is not None:
        message = f"cannot use what {program.path} told of its options: {reason}"
        raise Rejected(Problem(message=message, hint=hint, code=reading.FAILED))
    return table


def _as_reading(kept: Kept, *, cached: bool) -> Reading:
    return Reading(
        kind=kept.kind,
        path=kept.program.path,
        label=label_of(kept.table),
        table=kept.table,
        read_at=kept.read_at,
        cached=cached,
        caveat=kept.program.caveat,
    )
