"""The entry points behind the command line: run the daemon, or answer without one. Wires nothing itself; imports what a call needs.

``daemon.py`` beside it wires the daemon. Together they are the only modules that know concrete backends and runtimes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from reconciler.config.importers.contract import Importer, Understand, Unknown
    from reconciler.config.importers.write import Written
    from reconciler.config.source import Source
    from reconciler.core.contracts import Backend, ParsedCommand
    from reconciler.core.spec import BackendsSpec, Fleet
    from reconciler.installed.known import Installed


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What ``llamactl up`` was told on its command line."""

    file: Path | None = None
    state_dir: Path | None = None
    host: str | None = None
    port: int | None = None
    simulate: bool = False
    """Run every backend as a simulator."""
    insecure: bool = False
    """Serve off loopback without keys."""
    log_format: Literal["text", "json"] = "text"


def run(options: UpOptions, environ: Mapping[str, str]) -> int:
    """Run the daemon until it is told to end; the exit code. Rejected, Conflict or Terminal before it serves."""
    from reconciler.daemon import run_daemon

    return run_daemon(options, environ)


def end_leftovers(state_dir: Path | None, environ: Mapping[str, str]) -> int:
    """End what a state folder still owns while no daemon runs; how many replicas that were. Conflict while a daemon runs."""
    from reconciler.daemon import run_leftovers

    return run_leftovers(state_dir, environ)


def _backends() -> Mapping[str, Backend]:
    from reconciler.backends import discover

    return discover()


def installed(
    environ: Mapping[str, str], state_dir: Path | None = None, *, say: Callable[[str], None] | None = None
) -> Installed:
    """What was read from this host's programs; ``say`` is told what does not count any more (default: the log)."""
    from reconciler.host import store
    from reconciler.installed.known import Installed, log

    folder = store.state_dir(state_dir, environ)
    return Installed(environ, folder, say=say if say is not None else log.warning)


def check(file: Path | None, environ: Mapping[str, str], known: Installed | None = None) -> Fleet:
    """The fleet that a file declares, checked against the installed versions as far as they were read; Rejected with every problem."""
    from reconciler.config import source

    return check_source(source.read(source.find_file(file, environ)), environ, known)


def check_source(content: Source, environ: Mapping[str, str], known: Installed | None = None) -> Fleet:
    """:func:`check` of what was read, or will be written."""
    from reconciler.config import load

    backends = (known if known is not None else installed(environ)).backends
    return load.load(content, backends=backends, environ=environ)


def check_probed(file: Path | None, environ: Mapping[str, str], known: Installed, tell: Callable[[str], None]) -> Fleet:
    """:func:`check` against the options of every program that an instance runs, read now unless they are known already.

    ``tell`` hears of progress. A program that cannot be read is one of the problems.
    """
    from reconciler.config import source
    from reconciler.installed.probe import load_probed

    return load_probed(source.find_file(file, environ), environ, known, tell)


def plan_offline(file: Path | None, environ: Mapping[str, str], state_dir: Path | None = None) -> dict[str, Any]:
    """The plan for an empty host, in the form of the API's answer."""
    from reconciler.control.preview import preview, preview_json
    from reconciler.core.desired import expand
    from reconciler.core.observed import World

    known = installed(environ, state_dir)
    fleet = check(file, environ, known)
    after = expand(fleet, known.backends, environ)
    changes, steps = preview({}, after, World(), now=0.0, limit=fleet.server.max_parallel_replacements)
    return preview_json(changes, steps, after) | {"warnings": [problem.as_json() for problem in fleet.warnings]}


def schema(environ: Mapping[str, str]) -> dict[str, Any]:
    """The JSON schema of the file, with the options of the packaged versions: the same on every host."""
    from reconciler.config.schema import file_schema

    del environ
    return dict(file_schema(_backends()))


def programs(
    file: Path | None, environ: Mapping[str, str], known: Installed, *, say: Callable[[str], None]
) -> BackendsSpec:
    """Which programs are meant where an instance names none: by the file (None: the one that would be used), if there is one,
    and by the variables that win over it. ``say`` is told why a file does not count."""
    from contextlib import suppress

    from reconciler.config import load, source
    from reconciler.core.errors import Rejected

    if file is None:
        with suppress(Rejected):  # there is none, so nothing but variables can say which program is meant
            file = source.find_file(None, environ)
    elif not file.exists():
        file = None  # it will be made
    if file is not None:
        try:
            return load.load_programs(source.read(file), backends=known.backends, environ=environ)
        except Rejected as rejected:
            say(f"the programs that {file} names are not considered: {rejected.problems[0]}")
    return load.load_programs(None, backends=known.backends, environ=environ)


def parse_command(
    command: str,
    kind: str | None,
    environ: Mapping[str, str],
    known: Installed | None = None,
    programs: BackendsSpec | None = None,
) -> tuple[ParsedCommand, str]:
    """A pasted command line, understood by the installed versions' options, and its YAML snippet.

    ``kind`` None recognises the backend; ``programs`` say what a plain name means (see :func:`programs`). Rejected with the position.
    """
    from reconciler.config import document
    from reconciler.core.errors import Problem, Rejected

    if kind is None:
        parsed = understand(environ, known, programs)(command)
        return parsed, document.snippet(parsed.name, parsed.instance())
    backends = (known if known is not None else installed(environ)).backends
    chosen = [one for name, one in backends.items() if kind in (name, *one.parse_routes)]
    if not chosen:
        routes = ", ".join(sorted(route for one in backends.values() for route in one.parse_routes[:1]))
        raise Rejected(Problem(message="there is no backend of this kind", hint=f"say which with --backend: {routes}"))
    parsed = chosen[0].parse(command, programs)
    return parsed, document.snippet(parsed.name, parsed.instance())


def understand(
    environ: Mapping[str, str], known: Installed | None = None, programs: BackendsSpec | None = None
) -> Understand:
    """What reads a command line of whichever server it starts; that raises Rejected with line and column when none knows it."""
    from functools import partial

    from reconciler.backends import _detect

    backends = (known if known is not None else installed(environ)).backends
    return partial(_detect.understand, backends=backends, programs=programs)


def unknown(environ: Mapping[str, str]) -> Unknown:
    """What makes an instance out of a command line of no known server: it runs exactly these words."""
    from reconciler.backends import _detect

    del environ  # nothing depends on what is installed
    return _detect.unknown


def importers() -> Mapping[str, Importer]:
    """Whose files can be imported, by kind."""
    from reconciler.config.importers import discover

    return discover()


def import_instances(
    kind: str,
    files: Mapping[str, bytes],
    environ: Mapping[str, str],
    known: Installed | None = None,
    programs: BackendsSpec | None = None,
) -> Written:
    """Other tools' files (by name) as one file of ours, and what was lost; Rejected when one of them is no file of that kind.

    ``programs`` say what a plain name means (see :func:`programs`).
    """
    from reconciler.config import load
    from reconciler.config.importers import write

    known = known if known is not None else installed(environ)
    backends = known.backends
    read = importers()[kind].read
    knows, other = understand(environ, known, programs), unknown(environ)
    parts = [(name, read(data, name=name, understand=knows, unknown=other)) for name, data in files.items()]

    # what is imported names no programs: those that it will run with are told as a variable tells them
    named = programs.model_dump(mode="json") if programs is not None else {}
    meant = {key: named[setting] for key, (_, setting) in load.OVERRIDES.items() if setting in named}

    def check(text: bytes, variables: Mapping[str, str]) -> Fleet:
        variables = {**variables, **meant}
        return load.load_text(text, name="the imported file", backends=backends, environ=variables)

    return write.write(write.merged(parts), kind=kind, origin=", ".join(files), load=check, environ=environ)


def simulated(fleet: Fleet) -> Fleet:
    """The same fleet with a simulator in the place of every backend: a rehearsal of the user's own file."""
    from dataclasses import replace

    program = f"{sys.executable} -m reconciler.simulator"
    backends = fleet.backends.model_copy(
        update={
            "vllm_executable": f"{program} vllm",
            "llama_executable": f"{program} llama_cpp",
            "mlx_lm_executable": f"{program} mlx_lm",
        }
    )
    instances = {}
    for name, spec in fleet.instances.items():
        if spec.backend_type in ("custom", "external"):
            model = spec.backend_options.get("model") or name
            changed = {"backend_type": "simulator", "backend_options": {"model": model}, "executable": None}
        else:
            changed = {"executable": None}
        instances[name] = spec.model_copy(update=changed)
    return replace(fleet, backends=backends, instances=instances)
