"""systemd service units: the command that ``ExecStart=`` runs becomes an instance, with what the unit says about restarts and stops.

Drop-ins may be pasted behind the unit. An ``EnvironmentFile=`` with an absolute path is read where this host has it and lets us; nothing
else is. Sandboxes, limits and users belong to llamactl's own unit, whose children the servers are, so they are reported one by one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from reconciler.config._guard import decode
from reconciler.config.importers import _systemd_unit as unit
from reconciler.config.importers._carry import Ledger, body_of, names_no_server, understood
from reconciler.config.importers._compose_text import STDIN
from reconciler.config.importers._systemd_reasons import reason
from reconciler.config.importers._words import (
    Ref,
    Text,
    Unsayable,
    bare,
    command_line,
    file_text,
    literal,
    out_of_shell,
    refs,
)
from reconciler.config.importers.contract import Draft, Imported, Understand, Unknown
from reconciler.core.errors import Problem, Rejected
from reconciler.core.options import ParsedCommand
from reconciler.core.spec import OptionValue

_LARGEST_FILE = 64 * 1024
"""Bytes of an environment file; real ones have a few lines."""
_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT")
_RESTARTS = {
    "no": "never",
    "always": "always",
    "on-failure": "on_failure",
    "on-abnormal": "on_failure",
    "on-abort": "on_failure",
    "on-watchdog": "on_failure",
}
_SAME_TYPES = ("simple", "exec", "idle")


def read_environment_file(path: str) -> str | None:
    """An environment file of this host; None when it is not there, not a small regular file, no text, or not ours to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would be waited for
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_FILE:
                return None
            return file.read(_LARGEST_FILE).decode()
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Systemd:
    """The importer of service units."""

    kind: str = "systemd"
    help: str = "a systemd service unit whose ExecStart runs a server"
    needs_file: bool = True
    environment_file: Callable[[str], str | None] = read_environment_file

    def read(self, data: bytes, *, name: str, understand: Understand, unknown: Unknown) -> Imported:
        """One instance, called as the unit. Rejected for units that are no services, and for text that is no unit."""
        ledger = Ledger()
        found: list[unit.Setting] = []
        for one in unit.settings(decode(data, name)):
            if isinstance(one, unit.Setting):
                found.append(one)
            else:
                ledger.add("a line outside of any setting", "not carried over: it is no NAME=value", line=one[1])
        _require_service(found, name)
        reading = _Unit(_names(name), ledger, self.environment_file, understand, unknown)
        drafts = reading.drafts(_in_force(found))
        return Imported(drafts=drafts, lost=tuple(sorted(ledger.lost, key=lambda lost: lost.line or 0)))


def _require_service(found: list[unit.Setting], name: str) -> None:
    sections = {setting.section for setting in found}
    if "Service" in sections:
        return
    other = sorted(sections - {"Unit", "Install"})
    message = f"this is a {other[0].lower()} unit, not a service" if other else "this is no systemd unit of a service"
    hint = "import the .service unit that it starts" if other else "a service unit has a [Service] section"
    raise Rejected(Problem(message=message, hint=hint, file=name, line=found[0].line if found else 1, column=1))


def _names(name: str) -> unit.Names:
    """What the unit is called, from its file; a drop-in is called as the unit of its folder."""
    if name == STDIN:
        return unit.Names(None)
    base = os.path.basename(name)
    folder = os.path.basename(os.path.dirname(name))
    if base.endswith(".conf") and folder.endswith(".service.d"):
        return unit.Names(folder.removesuffix(".d"))
    return unit.Names(base if "." in base else f"{base}.service")


def _in_force(found: list[unit.Setting]) -> list[unit.Setting]:
    """Without what a later empty assignment takes back (``ExecStart=`` in a drop-in), and without those."""
    kept: list[unit.Setting] = []
    for setting in found:
        if setting.value:
            kept.append(setting)
        else:
            kept = [one for one in kept if (one.section, one.key) != (setting.section, setting.key)]
    return kept


@dataclass(slots=True)
class _Unit:
    """One unit on its way to an instance."""

    names: unit.Names
    ledger: Ledger
    environment_file: Callable[[str], str | None]
    understand: Understand
    unknown: Unknown
    environment: dict[str, Text] = field(default_factory=dict)
    ours: set[str] = field(default_factory=set)
    """Those variables that are llamactl's to set: the command may name them, the server is not given them."""
    unset: list[str] = field(default_factory=list)
    body: dict[str, OptionValue] = field(default_factory=dict)
    restart: dict[str, OptionValue] = field(default_factory=lambda: {"policy": "never"})
    stop: dict[str, OptionValue] = field(default_factory=dict)
    commands: list[tuple[str, int]] = field(default_factory=list)
    type: str = "simple"

    def drafts(self, found: list[unit.Setting]) -> tuple[Draft, ...]:
        """One draft, or none when the command is not understood."""
        self.type = next((one.value for one in reversed(found) if one.key == "Type"), "simple")
        for setting in found:
            try:
                self._setting(setting)
            except Unsayable as problem:
                self.ledger.problem(setting.key, problem, line=setting.line)
        self.body["restart"] = dict(self.restart)
        if self.stop:
            self.body["stop"] = dict(self.stop)
        drafts: list[Draft] = []
        for command, line in self.commands:
            draft = self._draft(command, line)
            if draft is not None and drafts:
                self.ledger.add("ExecStart", "not carried over: an instance runs one command", line=line)
            elif draft is not None:
                drafts.append(draft)
        if not self.commands:
            self.ledger.add("ExecStart", "the unit has none, so there is nothing to run", "import the whole unit")
        return tuple(drafts)

    # -- the command ------------------------------------------------------------------------------------------------

    def _draft(self, command: str, line: int) -> Draft | None:
        what = "ExecStart"
        try:
            text = self._command(command, line)
        except Unsayable as problem:
            self.ledger.add(what, f"not carried over: {problem}", problem.cure, line=line)
            return None
        parsed = self._parsed(text, what, line)
        if parsed is None:
            return None
        if self.unset:
            self.body["environment"] = dict.fromkeys(self.unset)
        body = body_of(parsed, self.body, self.ledger, what, line=line)
        return Draft(name=self.names.instance or self.names.prefix or parsed.name, body=body, line=line)

    def _command(self, command: str, line: int) -> str:
        prefix = re.match(r"[-@:+!|]*", command)
        marks = prefix[0] if prefix is not None else ""
        parts = [self.names.expanded(word) for word in unit.words(command[len(marks) :])]
        for mark, why in (("-", "a failing exit counts as one"), ("@", "the program's own name is given as argv[0]")):
            if mark in marks:
                self.ledger.add(f"ExecStart={mark}", why, line=line)
        if "@" in marks:
            del parts[1:2]
        if any(mark in marks for mark in "+!"):
            why = "the server has llamactl's own rights"
            self.ledger.add("ExecStart=" + marks.strip("-@:|"), why, "run llamactl as the user it needs", line=line)
        if literal(";") in parts:
            raise Unsayable("it holds several commands", "keep the one that starts the server")
        dropped: list[str] = []
        found = tuple(parts) if ":" in marks else unit.filled(parts, self.environment, dropped)
        for name in dropped:
            why = f"${name} stands for words that the unit does not say"
            self.ledger.add(f"ExecStart ${name}", why, "write them into the command, or as options", line=line)
        given = tuple((name, value) for name, value in self.environment.items() if name not in self.ours)
        return command_line(out_of_shell(found), given)

    def _parsed(self, text: str, what: str, line: int) -> ParsedCommand | None:
        try:
            self.understand(text)
        except Rejected as rejected:
            if names_no_server(rejected):
                why = "no server that llamactl knows: the instance runs exactly these words"
                self.ledger.add(what, why, "put {port} and {host} where its port and address stand", line=line)
                return understood(text, what, self.ledger, self.unknown, line=line)
        return understood(text, what, self.ledger, self.understand, line=line)

    # -- settings -----------------------------------------------------------------------------------------------------

    def _setting(self, one: unit.Setting) -> None:
        if one.section.startswith("X-") or one.key.startswith("X-"):
            return
        handler = _HANDLERS.get(one.key) if one.section in ("Service", "Unit") else None
        if handler is not None:
            handler(self, one)
            return
        why, cure = reason(one.section, one.key)
        self.ledger.add(one.key, why, cure, line=one.line)

    def exec_start(self, one: unit.Setting) -> None:
        """The command itself; read when every variable is known."""
        self.commands.append((one.value, one.line))

    def kind(self, one: unit.Setting) -> None:
        """``Type=``"""
        if one.value == "notify" or one.value == "notify-reload":
            self.ledger.add("Type", "llamactl asks the server over HTTP whether it is ready", line=one.line)
        elif one.value not in _SAME_TYPES:
            why = f"a server of llamactl's stays in the foreground, one of type {one.value} does not"
            self.ledger.add("Type", why, "leave out the flag that sends it to the background", line=one.line)

    def variables(self, one: unit.Setting) -> None:
        """``Environment=``"""
        for name, value in unit.assignments(one.value, self.names):
            self._variable(name, value, f"Environment {name}", one.line)

    def _variable(self, name: str, value: Text, what: str, line: int) -> None:
        self.environment[name] = self.ledger.environment(name, value, what, line=line)
        if self.ledger.listening(name, what, line=line):
            self.ours.add(name)
        else:
            self.ours.discard(name)

    def variable_file(self, one: unit.Setting) -> None:
        """``EnvironmentFile=``"""
        optional = one.value.startswith("-")
        path = self.names.expanded(one.value.removeprefix("-"))
        name = bare(path)
        text = self.environment_file(name) if name is not None and name.startswith("/") else None
        if text is None:
            why = "its variables are not carried over: the file cannot be read here"
            if optional:
                why += " (the unit does without it where it is missing)"
            cure = "write them under environment, or set them in llamactl's own unit (EnvironmentFile= there)"
            self.ledger.add(f"EnvironmentFile {name or file_text(path)}", why, cure, line=one.line)
            return
        read = dict(unit.file_assignments(text))
        why = f"read now ({', '.join(read) or 'no variables'}): a later change of the file changes nothing"
        self.ledger.add(f"EnvironmentFile {name}", why, "change the instance's environment instead", line=one.line)
        for variable, value in read.items():
            self._variable(variable, literal(value), f"{variable} in {name}", one.line)

    def passed_on(self, one: unit.Setting) -> None:
        """``PassEnvironment=``: from the manager's environment there, from llamactl's here, which an instance inherits."""
        names = ", ".join(bare(self.names.expanded(word)) or word for word in unit.words(one.value))
        why = f"an instance inherits the whole of llamactl's environment, which systemd does not hand {names} on to by itself"
        self.ledger.add(one.key, why, f"write {one.key}={one.value} in llamactl's own unit too", line=one.line)

    def unset_variables(self, one: unit.Setting) -> None:
        """``UnsetEnvironment=``"""
        for word in unit.words(one.value):
            if "=" in word:
                self.ledger.add("UnsetEnvironment", "only names can be unset, not values", line=one.line)
            else:
                self.unset.append(word)

    def directory(self, one: unit.Setting) -> None:
        """``WorkingDirectory=``"""
        value = one.value
        if value.startswith("-"):
            self.ledger.add("WorkingDirectory", "the folder must exist: there it may be missing", line=one.line)
            value = value.removeprefix("-")
        text: Text = (Ref("HOME"),) if value == "~" else self.names.expanded(value)
        for ref in refs(text):
            why = f"the home folder is that of llamactl's user: {ref}"
            self.ledger.add("WorkingDirectory", why, "write the folder itself", line=one.line)
        self.body["working_directory"] = file_text(text)

    def restart_policy(self, one: unit.Setting) -> None:
        """``Restart=``"""
        if one.value not in _RESTARTS:
            raise Unsayable(f"llamactl has no policy {one.value!r}", "set restart.policy: always, on_failure or never")
        self.restart["policy"] = _RESTARTS[one.value]
        if one.value.startswith(("on-ab", "on-w")):
            self.ledger.add("Restart", f"{one.value} became on_failure: any exit that is no success", line=one.line)

    def restart_delay(self, one: unit.Setting) -> None:
        """``RestartSec=``: the first wait; llamactl's doubles up to ``max_delay``."""
        seconds = unit.span(one.value)
        if seconds is None:
            raise Unsayable("a wait without end", "set restart.policy: never")
        self.restart["initial_delay"] = unit.duration(seconds)
        if seconds > 300:
            self.restart["max_delay"] = unit.duration(seconds)
        self.ledger.add(
            "RestartSec", "it is the first wait; each further one is twice as long, to max_delay", line=one.line
        )

    def restart_limit(self, one: unit.Setting) -> None:
        """``RestartMaxDelaySec=``"""
        seconds = unit.span(one.value)
        if seconds is not None:
            self.restart["max_delay"] = unit.duration(seconds)

    def start_burst(self, one: unit.Setting) -> None:
        """``StartLimitBurst=``: so many starts, the first included, in ``StartLimitIntervalSec=``."""
        if not one.value.isdigit():
            raise Unsayable(f"{one.value!r} is no number of starts")
        if int(one.value) == 0:
            return
        self.restart["max_restarts"] = max(int(one.value) - 1, 0)
        why = "restarts are counted until the server was well for restart.reset_after, not in an interval"
        self.ledger.add(one.key, why, line=one.line)

    def start_interval(self, one: unit.Setting) -> None:
        """``StartLimitIntervalSec=``: 0 means no limit, which is llamactl's default."""
        if unit.span(one.value) != 0:
            why = "restarts are counted until the server was well for a while, not in an interval"
            self.ledger.add(one.key, why, "set restart.reset_after", line=one.line)

    def timeout(self, one: unit.Setting) -> None:
        """``TimeoutStartSec=``, ``TimeoutStopSec=``, and ``TimeoutSec=`` for both."""
        seconds = unit.span(one.value) or None  # 0 means no limit too
        starts, stops = one.key != "TimeoutStopSec", one.key != "TimeoutStartSec"
        if seconds is None:
            cure = " and ".join(["start_timeout"] * starts + ["stop.grace"] * stops)
            raise Unsayable("llamactl waits for nothing without end", f"set {cure} to the longest you would wait")
        if starts:
            self.body["start_timeout"] = unit.duration(seconds)
            if self.type in _SAME_TYPES:
                why = "there it did not count the loading of the model; here a start takes until the server answers"
                self.ledger.add(one.key, why, "raise start_timeout, or remove it for the default", line=one.line)
        if stops:
            self.stop["grace"] = unit.duration(seconds)

    def kill_signal(self, one: unit.Setting) -> None:
        """``KillSignal=``"""
        name = one.value if one.value.startswith("SIG") else f"SIG{one.value}"
        if name not in _SIGNALS:
            raise Unsayable(f"llamactl stops with {', '.join(_SIGNALS)}, not {one.value}")
        self.stop["signal"] = name

    def kill_mode(self, one: unit.Setting) -> None:
        """``KillMode=``: llamactl's way is ``mixed``."""
        if one.value != "mixed":
            why = "the signal goes to the main process alone, and what is left after the grace is killed"
            self.ledger.add("KillMode", why, line=one.line)

    def description(self, one: unit.Setting) -> None:
        """``Description=``"""
        self.body["labels"] = {"description": file_text(self.names.expanded(one.value))}


_HANDLERS: Mapping[str, Callable[[_Unit, unit.Setting], None]] = {
    "ExecStart": _Unit.exec_start,
    "Type": _Unit.kind,
    "Environment": _Unit.variables,
    "EnvironmentFile": _Unit.variable_file,
    "PassEnvironment": _Unit.passed_on,
    "UnsetEnvironment": _Unit.unset_variables,
    "WorkingDirectory": _Unit.directory,
    "Restart": _Unit.restart_policy,
    "RestartSec": _Unit.restart_delay,
    "RestartMaxDelaySec": _Unit.restart_limit,
    "StartLimitBurst": _Unit.start_burst,
    "StartLimitIntervalSec": _Unit.start_interval,
    "StartLimitInterval": _Unit.start_interval,
    "TimeoutStartSec": _Unit.timeout,
    "TimeoutStopSec": _Unit.timeout,
    "TimeoutSec": _Unit.timeout,
    "KillSignal": _Unit.kill_signal,
    "KillMode": _Unit.kill_mode,
    "Description": _Unit.description,
}
IMPORTER = Systemd()
