"""Instances of the Go program llamactl (lordmathis/llamactl) as JSON: one, a list, the answer of its API, or its folder of files.

Three shapes of it are about: options of the server under ``backend_options``, under a name for each server (``llama_server_options``),
and, in the oldest, right among the instance's own settings.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

from pydantic import JsonValue

from reconciler.config._guard import rejected
from reconciler.config._tree import Entry, Node, Place, Scalar, Sequence, Table, plain
from reconciler.config.importers._carry import Ledger, withheld
from reconciler.config.importers._json_options import ServerOptions
from reconciler.config.importers._variables import Variables
from reconciler.config.importers._walk import Section, read_table, scalar_text
from reconciler.config.importers._words import literal
from reconciler.config.importers.contract import Draft, Imported, Lost, Understand, Unknown
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import OptionValue

_OLD_SHAPES = ("llama_server_options", "mlx_server_options", "vllm_server_options")
_COMMANDS = {
    "llama_server_options": "llama-server -m x",
    "mlx_server_options": "mlx_lm.server --model x",
    "vllm_server_options": "vllm serve x",
}
"""A command of the server that a shape is for: whoever understands commands knows what we call it."""
_OWN = (
    "auto_restart",
    "max_restarts",
    "restart_delay",
    "on_demand_start",
    "idle_timeout",
    "environment",
    "backend_type",
)
_OWN_REASONS: dict[str, tuple[str, str | None]] = {
    "docker_enabled": (
        "the container's image and arguments are in that program's own configuration",
        'executable: "docker run --rm --network host IMAGE" on the instance',
    ),
    "preset_ini": (
        "presets of the server's router are another file",
        "save it and use: llamactl import preset-ini FILE",
    ),
}
_BOOKS = ("what that program notes for itself", None)
_FRAME_REASONS: dict[str, tuple[str, str | None]] = {
    "created": _BOOKS,
    "created_at": _BOOKS,
    "updated_at": _BOOKS,
    "id": _BOOKS,
    "owner_user_id": ("instances belong to nobody here; keys say what they may use", "auth: inference_keys"),
    "docker_enabled": _OWN_REASONS["docker_enabled"],
}
_ASSIGNED = {
    "host": "llamactl assigns the address, on loopback",
    "port": "llamactl assigns the port",
    "api_key": "llamactl gives each server a random key of its own",
    "api_key_file": "llamactl gives each server a random key of its own",
}
_BECAME = {
    "idle_timeout": "idle_timeout", "max_restarts": "restart", "environment": "environment",
    "command_override": "executable", "backend_type": "backend_type",
}  # fmt: skip
"""Settings of that program by what they are here."""
_WANTED = 'an instance has "name" and "options"'
_LOCAL_NODE = "main"


class LlamactlJson:
    """``llamactl import llamactl-json``."""

    kind = "llamactl-json"
    help = "instances of the Go program llamactl: a JSON file, or its folder of them"
    needs_file = True
    pattern = "*.json"

    def read(self, data: bytes, *, name: str, understand: Understand, unknown: Unknown) -> Imported:
        """The instances of one file; Rejected with the place when there are none in it."""
        del unknown  # a known server each
        table, lost = _json(data, name)
        drafts = []
        commands = {understand(command).backend_type: command for command in _COMMANDS.values()}
        variables = Variables(understand)
        for called, section in _instances(table, name, lost):
            draft = _Instance(called, section, understand, commands, variables).draft()
            drafts += [] if draft is None else [draft]
        return Imported(drafts=tuple(drafts), lost=tuple(lost))


def _json(data: bytes, name: str) -> tuple[Table, list[Lost]]:
    """The document; a list is put under ``instances``. JSON is YAML but for its tabs, which stand only between tokens."""
    data = data.replace(b"\t", b" ")
    if not data.lstrip(b"\xef\xbb\xbf \r\n").startswith((b"{", b"[")):
        raise rejected(Place(name, 1, 1), "this is no JSON: it begins with neither { nor [")
    if data.lstrip(b"\xef\xbb\xbf \r\n").startswith(b"{"):
        return read_table(data, name, wanted=_WANTED)
    try:
        table, lost = read_table(b'{"instances":\n' + data.removeprefix(b"\xef\xbb\xbf") + b"\n}", name)
    except Rejected as refusal:
        last = data.rstrip().count(b"\n") + 1
        raise Rejected(*(_line_up(problem, last) for problem in refusal.problems)) from None
    return _lines_up(table), [_lost_up(one) for one in lost]


def _line_up(problem: Problem, last: int) -> Problem:
    return replace(problem, line=min(max((problem.line or 2) - 1, 1), last), source=None, also=())


def _lost_up(lost: Lost) -> Lost:
    return replace(lost, line=max((lost.line or 2) - 1, 1))


def _lines_up(node: Table) -> Table:
    """The tree with every place one line further up: a line was put before it."""

    def place(old: Place) -> Place:
        return Place(old.file, max(old.line - 1, 1), old.column)

    def moved(old: Node) -> Node:
        match old:
            case Scalar():
                return Scalar(old.value, place(old.place), old.raw)
            case Sequence():
                return Sequence(tuple(moved(item) for item in old.items), place(old.place))
            case Table():
                return _lines_up(old)

    entries = {key: Entry(place(entry.key_place), moved(entry.node)) for key, entry in node.entries.items()}
    return Table(entries, place(node.place))


def _instances(table: Table, file: str, lost: list[Lost]) -> Iterator[tuple[str, Section]]:
    """Each instance with its name, wherever in the document it stands."""
    whole = Section(table, "", lost)
    if "instances" in table.entries:
        found = table.entries["instances"].node
        whole.taken.add("instances")
        whole.rest({})
        if isinstance(found, Sequence):
            for at, item in enumerate(found.items):
                if isinstance(item, Table):
                    below = Section(item, f"instances[{at}]", lost)
                    yield below.text("name") or f"instance-{at + 1}", below
                else:
                    lost.append(Lost(what=f"instances[{at}]", why="a mapping was expected here", line=item.place.line))
            return
        inner = whole.section("instances")
        table, whole = (inner.table, inner) if inner is not None else (Table({}, table.place), whole)
    if any(key in table.entries for key in ("options", "backend_type", "name", *_OLD_SHAPES)):
        yield whole.text("name") or PurePath(file).stem, whole
        return
    if not table.entries or not all(isinstance(entry.node, Table) for entry in table.entries.values()):
        place = table.place
        message = "there is no instance of llamactl in this JSON"
        raise rejected(Place(file, place.line, place.column), message, hint=_WANTED)
    for key, below in whole.sections():
        yield below.text("name") or key, below


@dataclass(slots=True)
class _Instance:
    """One instance while it is read."""

    name: str
    frame: Section
    understand: Understand
    commands: Mapping[str, str]
    """A command of each server that llamactl knows, by what we call it."""
    variables: Variables

    def draft(self) -> Draft | None:
        """The draft; None when nobody knows which server it is."""
        options = self.frame.section("options") or self.frame
        options.taken.add("name")
        kind, server = self._server(options)
        if kind is None:
            self.frame.lost.append(
                Lost(
                    what=self.name,
                    why="it does not say which server it is",
                    cure="write backend_type",
                    line=self.frame.line(),
                )
            )
            return None
        body: dict[str, OptionValue] = {"backend_type": kind, "backend_options": {}}
        ledger = Ledger(lost=self.frame.lost)
        read = ServerOptions(self.understand, self.commands.get(kind), ledger)
        if server is not None:
            self._extra(server, read)
            for key, why in _ASSIGNED.items():
                if key in server.table.entries:
                    server.lose(key, why)
            for key, entry in server.table.entries.items():
                if key not in server.taken:
                    read.option(key, plain(entry.node), _value(entry.node), server.path(key), server.line(key))
            server.taken.update(server.table.entries)
            read.settle()
        where, line = (server or options).where or self.name, self.frame.line()
        body["backend_options"] = withheld(read.found, ledger, where, line=line)
        if read.extra:
            body["extra_args"] = withheld(read.extra, ledger, where, line=line)
        self._state(options, body)
        self._restart(options, body)
        self._environment(options, body, ledger)
        self._place(options, body)
        options.rest(_OWN_REASONS | _FRAME_REASONS)
        self.frame.rest(_FRAME_REASONS)
        lines = read.lines | {
            (ours,): options.line(key) for key, ours in _BECAME.items() if key in options.table.entries
        }
        return Draft(name=self.name, body=body, line=line, where=self.frame.where, lines=lines)

    def _server(self, options: Section) -> tuple[str | None, Section | None]:
        """What the server is called, and its options."""
        kind = options.text("backend_type")
        server = options.section("backend_options")
        for shape in _OLD_SHAPES:
            below = options.section(shape)
            if below is not None and server is None:
                return kind or self.understand(_COMMANDS[shape]).backend_type, below
        if kind is not None or server is not None:
            return kind, server
        if (
            "model" in options.table.entries or "hf_repo" in options.table.entries
        ):  # the oldest shape knew one server only
            own = {
                *_OWN,
                *_OWN_REASONS,
                *_FRAME_REASONS,
                "command_override",
                "nodes",
                "name",
                "status",
                "running",
                "options",
            }
            entries = {key: entry for key, entry in options.table.entries.items() if key not in own}
            options.taken.update(entries)
            flat = Section(Table(entries, options.table.place), options.where, options.lost)
            return self.understand(_COMMANDS["llama_server_options"]).backend_type, flat
        return None, None

    def _extra(self, server: Section, read: ServerOptions) -> None:
        """``extra_args``: flags with their values, as a mapping or as words."""
        node = server.node("extra_args")
        groups: list[tuple[list[str], int]] = []
        if isinstance(node, Sequence):
            for item in node.items:
                word = scalar_text(item) or ""
                if groups and not re.match(r"--?[A-Za-z]", word):
                    groups[-1][0].append(word)
                else:
                    groups.append(([word], item.place.line))
        elif isinstance(node, Table):
            for key, entry in node.entries.items():
                value = scalar_text(entry.node)
                flag = key if key.startswith("-") else f"--{key}"
                groups.append(([flag, value] if value else [flag], entry.key_place.line))
        elif node is not None:
            server.lose("extra_args", "a mapping was expected here")
        for words, line in groups:
            what = f"{server.path('extra_args')} {words[0]}"
            read.words(words, [_escaped(word) for word in words], what, line)

    def _state(self, options: Section, body: dict[str, OptionValue]) -> None:
        on_demand = self._flag(options, "on_demand_start")
        idle = options.integer("idle_timeout") or 0
        status = self.frame.text("status")
        running = self._flag(self.frame, "running")
        body["state"] = "on_demand" if on_demand else "running"
        if not on_demand and (running is False or status in ("stopped", "0")):
            body["enabled"] = False
        if idle > 0 and on_demand:
            body["idle_timeout"] = f"{idle}m"
        elif idle > 0:
            why = "only an instance that starts on demand is ended when it is idle"
            options.lose("idle_timeout", why, f"state: on_demand and idle_timeout: {idle}m")

    def _restart(self, options: Section, body: dict[str, OptionValue]) -> None:
        restart: dict[str, OptionValue] = {}
        if self._flag(options, "auto_restart") is False:
            restart["policy"] = "never"
        most, delay = options.integer("max_restarts"), options.integer("restart_delay")
        if most is not None and most >= 0:
            restart["max_restarts"] = most
        if delay is not None and delay > 0:  # it always waits as long; ours would double
            restart |= {"initial_delay": f"{delay}s", "max_delay": f"{delay}s"}
        if restart:
            body["restart"] = restart

    def _environment(self, options: Section, body: dict[str, OptionValue], ledger: Ledger) -> None:
        section = options.section("environment")
        if section is None:
            return
        found: dict[str, OptionValue] = {}
        for key in section.table.entries:
            text = section.text(key)
            if text is None:
                continue
            command = self.commands.get(str(body["backend_type"]))
            what, line = section.path(key), section.line(key)
            value = self.variables.carried(key, literal(text), what, ledger, command=command, line=line)
            if value is not None:
                found[key] = value
        if found:
            body["environment"] = found

    def _place(self, options: Section, body: dict[str, OptionValue]) -> None:
        command = options.text("command_override")
        if command:
            body["executable"] = shlex.quote(_escaped(command))
        nodes = [scalar_text(item) or "?" for item in options.items("nodes")]
        others = [node for node in nodes if node != _LOCAL_NODE]
        if others:
            why = f"it runs on {', '.join(others)}; an instance of this file runs on the host of its daemon"
            options.lose("nodes", why, "import it there, and declare it here with backend_type: external")
        if self._flag(options, "docker_enabled") is True:
            options.lose("docker_enabled", *_OWN_REASONS["docker_enabled"])
        if self.frame is not options and self._flag(self.frame, "docker_enabled") is True:
            self.frame.lose("docker_enabled", *_OWN_REASONS["docker_enabled"])

    def _flag(self, section: Section, key: str) -> bool | None:
        node = section.node(key)
        if node is None:
            return None
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        section.lose(key, "true or false was expected here")
        return None


def _escaped(text: str) -> str:
    return text.replace("${", "$${")


def _value(node: Node) -> JsonValue:
    """The bare data, its text as our file writes it: ``${`` is literal there."""
    match node:
        case Scalar():
            return _escaped(node.value) if isinstance(node.value, str) else node.value
        case Sequence():
            return [_value(item) for item in node.items]
        case Table():
            return {key: _value(entry.node) for key, entry in node.entries.items()}


IMPORTER = LlamactlJson()
