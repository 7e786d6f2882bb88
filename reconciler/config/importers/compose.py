"""Docker compose files: each service that runs a known server becomes an instance that runs the same ``docker run``.

Only the file itself is read: no ``.env``, no ``env_file``, nothing that ``include`` or ``extends`` names. ``x-*`` keys and the
obsolete ``version`` mean nothing to compose either; every other setting is carried over or reported.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from reconciler.config._parse import EMPTY_MESSAGE, Document, parse
from reconciler.config._tree import Node, Place, Scalar, Sequence, Table, child
from reconciler.config.importers._carry import Ledger, body_of, refusal
from reconciler.config.importers._compose_reasons import SECTIONS, SETTINGS
from reconciler.config.importers._compose_run import EXTERNAL, Container
from reconciler.config.importers._compose_text import RESOLVED, STDIN, Reader, duration
from reconciler.config.importers._words import (
    Ref,
    Text,
    Unsayable,
    bare,
    command_line,
    literal,
    literals,
    out_of_shell,
    refs,
    shown,
    split_words,
)
from reconciler.config.importers.contract import Draft, Imported, Understand, Unknown
from reconciler.core.errors import Problem, Rejected
from reconciler.core.options import ParsedCommand
from reconciler.core.spec import OptionValue

_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT")
_RESTARTS = {
    "always": "always",
    "unless-stopped": "always",
    "any": "always",
    "no": "never",
    "false": "never",
    "none": "never",
}
_TERMINAL = {"tty": "-t", "stdin_open": "-i"}
_FROM_DOTENV = "; compose takes it from its shell or from the .env beside its file, which is not read here"
_HEAD = ("docker", "run", "--rm", "--network", "host")
_LIMITS = {"cpus": "--cpus", "memory": "--memory", "pids": "--pids-limit"}


@dataclass(frozen=True, slots=True)
class Compose:
    """The importer of compose files."""

    kind: str = "compose"
    help: str = "services of a docker compose file that run vLLM, llama.cpp or MLX"
    needs_file: bool = True

    def read(self, data: bytes, *, name: str, understand: Understand, unknown: Unknown) -> Imported:
        """Relative paths become absolute, seen from the file's folder. Rejected for what is no compose file."""
        del unknown  # a service that runs something else stays with compose
        document = _document(data, name)
        ledger = Ledger()
        for problem in document.problems:
            ledger.add(problem.path or "the file", problem.message, problem.hint, line=problem.line)
        services = child(document.root, "services")
        if not isinstance(services, Table):
            told = "compose files of version 1 need `services:` around everything"
            if services is not None:
                told = "write the services below it, each under its name"
            place = document.root.place if services is None else services.place
            raise _no_compose(name, "it has no services", told, place)
        folder = None if name == STDIN else os.path.dirname(os.path.abspath(name))
        reader = Reader(ledger, folder)
        volumes = child(document.root, "volumes")
        container = Container(
            reader,
            _project(document.root, folder),
            {key: entry.node for key, entry in volumes.entries.items()} if isinstance(volumes, Table) else {},
        )
        _sections(document.root, ledger)
        drafts = []
        for service, entry in services.entries.items():
            if not service.startswith("x-"):
                drafts += _Service(service, entry.key_place.line, container, understand).drafts(entry.node)
        return Imported(drafts=tuple(drafts), lost=tuple(ledger.lost))


def _document(data: bytes, name: str) -> Document:
    """The file as a tree; Rejected, in compose's terms, when there is nothing in it."""
    try:
        return parse(data, name=name)
    except Rejected as rejected:
        if any(problem.message == EMPTY_MESSAGE for problem in rejected.problems):
            hint = "name the file that has `services:`, or give the output of `docker compose config`"
            raise _no_compose(name, "there is nothing in it", hint, Place(name, 1, 1)) from None
        raise


def _no_compose(name: str, why: str, hint: str, place: Place) -> Rejected:
    message = f"this is no compose file: {why}"
    return Rejected(Problem(message=message, hint=hint, file=name, line=place.line, column=place.column))


def _project(root: Table, folder: str | None) -> str | None:
    given = child(root, "name")
    if isinstance(given, Scalar) and isinstance(given.value, str):
        return None if "$" in given.value else given.value
    made = re.sub(r"[^-_a-z0-9]", "", os.path.basename(folder or "").lower()).lstrip("_-")
    return made or None


def _sections(root: Table, ledger: Ledger) -> None:
    for key, entry in root.entries.items():
        line = entry.key_place.line
        if key in ("services", "version") or key.startswith("x-"):
            continue
        if key == "volumes":
            for volume, declared in entry.node.entries.items() if isinstance(entry.node, Table) else ():
                for setting, value in declared.node.entries.items() if isinstance(declared.node, Table) else ():
                    usual = setting == "driver" and isinstance(value.node, Scalar) and value.node.value == "local"
                    if setting not in ("name", EXTERNAL) and not usual:
                        ledger.add(
                            f"volumes.{volume}.{setting}",
                            "docker run makes the volume without it",
                            f"docker volume create {volume} with it",
                            line=value.key_place.line,
                        )
            continue
        why, cure = SECTIONS.get(key, ("not carried over: llamactl has no such section", None))
        ledger.add(key, why, cure, line=line)


@dataclass(slots=True)
class _Service:
    """One service on its way to an instance."""

    name: str
    line: int
    container: Container
    understand: Understand
    options: list[Text] = field(default_factory=list)
    settings: dict[str, OptionValue] = field(default_factory=dict)
    policy: dict[str, OptionValue] = field(default_factory=dict)
    """What ``deploy.restart_policy`` says."""
    parts: dict[str, Node] = field(default_factory=dict)
    """``image``, ``entrypoint``, ``command``."""

    @property
    def what(self) -> str:
        return f"services.{self.name}"

    def drafts(self, node: Node) -> list[Draft]:
        """One, or none where the service runs no known server; then that alone is reported of it."""
        ledger = self.container.reader.ledger
        if not isinstance(node, Table):
            ledger.add(self.what, "not carried over: it has no settings", line=self.line)
            return []
        mine = Ledger()  # what is lost of a service that is not carried over itself is no news
        self.container = Container(
            Reader(mine, self.container.reader.folder), self.container.project, self.container.volumes
        )
        if "extends" in node.entries:
            place = node.entries["extends"].key_place.line
            ledger.add(
                f"{self.what}.extends", "not carried over: the service it extends is not put in", RESOLVED, line=place
            )
            return []
        for key, entry in node.entries.items():
            if not key.startswith("x-") and not (isinstance(entry.node, Scalar) and entry.node.value is None):
                self._setting(key, entry.node, entry.key_place)
        self._restarts(node)
        body = self._body(mine, ledger)
        if body is None:
            return []
        ledger.lost += [entry for entry in mine.lost if entry not in ledger.lost]
        return [Draft(name=self.name, body=body, line=self.line)]

    def _body(self, mine: Ledger, ledger: Ledger) -> dict[str, OptionValue] | None:
        what = f"{self.what}.command"
        line = self.parts["command"].place.line if "command" in self.parts else self.line
        refused = Ledger()
        try:
            image, entrypoint, words = self._program()
            for name in (image, _by_default(image)) if refs(image) else (image,):
                command = command_line((*literals(_HEAD), *self.options, *entrypoint, name, *words))
                try:
                    parsed = self.understand(command)
                except Rejected as rejected:
                    refusal(rejected, self.what, refused, line=self.line)
                    continue
                if name is not image:
                    why = f"{shown(image)} became {shown(name)}, because only that name says which server it is"
                    mine.add(f"{self.what}.image", why, line=self.parts["image"].place.line)
                mine.warnings(what, parsed, line=line, lines=self._lines(command, words), elsewhere=_FROM_DOTENV)
                self._handed_on(parsed, mine, ledger)
                return body_of(parsed, self.settings, mine, what, line=line)
        except Unsayable as problem:
            refused.add(self.what, f"not carried over: {problem}", problem.cure, line=self.line)
        ledger.lost += refused.lost[:1]
        return None

    def _handed_on(self, parsed: ParsedCommand, mine: Ledger, ledger: Ledger) -> None:
        """The variables that ``docker run`` hands on though the service has none of the name: told once in a file."""
        words = shlex.split(parsed.executable or "")
        given = {(shown(text).partition("=")[0]) for text in self.options}
        for before, name in pairwise(words):
            if before == "-e" and name not in given and name not in parsed.environment:
                why = f"-e {name} was added: llamactl gives each server a key of its own in that variable"
                ledger.variable(f"-e {name}", self.what, why, line=self.line)

    def _program(self) -> tuple[Text, tuple[Text, ...], tuple[Text, ...]]:
        """Image, ``--entrypoint`` as words, and the words behind the image."""
        reader = self.container.reader
        if "image" not in self.parts:
            cure = "build it with a tag, and name that as image" if "build" in self.parts else None
            raise Unsayable("it names no image", cure)
        image = reader.text(self.parts["image"], f"{self.what}.image")
        words = self._words("command")
        if "entrypoint" not in self.parts:
            return image, (), out_of_shell(words)
        full = out_of_shell((*self._words("entrypoint"), *words))
        if not full:
            raise Unsayable("its entrypoint is emptied, and no command is given")
        return image, (literal("--entrypoint"), full[0]), full[1:]

    def _words(self, key: str) -> tuple[Text, ...]:
        node, what = self.parts.get(key), f"{self.what}.{key}"
        if node is None:
            return ()
        if isinstance(node, Scalar):
            return split_words(self.container.reader.text(node, what, empty=False))
        return self.container.reader.words(node, what, empty=False)

    def _lines(self, command: str, words: tuple[Text, ...]) -> Mapping[int, int]:
        """The lines of the items of ``command:``, by their columns in the command line; none of a text that was split."""
        node = self.parts.get("command")
        if not isinstance(node, Sequence) or words != self._words("command"):
            return {}
        ends = accumulate(len(command_line([word])) + 1 for word in words)
        starts = (len(command) - len(command_line(words)) + 1 + end for end in (0, *ends))
        return dict(zip(starts, (item.place.line for item in node.items), strict=False))

    # -- settings -----------------------------------------------------------------------------------------------------

    def _setting(self, key: str, node: Node, place: Place) -> None:
        what = f"{self.what}.{key}"
        ledger = self.container.reader.ledger
        if key in ("image", "entrypoint", "command"):
            self.parts[key] = node
            return
        if key == "build":
            self.parts[key] = node
        try:
            if key == "deploy":
                self._deploy(node, what)
                return
            if key in _TERMINAL:
                self._terminal(key, node, what, place.line)
                return
            if self._own(key, node, what, place.line):
                return
            words = self.container.words(key, node, what)
        except Unsayable as problem:
            ledger.problem(what, problem, line=place.line)
            return
        if words is None:
            why, cure = SETTINGS.get(key, ("not carried over: neither llamactl nor docker run has it", None))
            ledger.add(what, why, cure, line=place.line)
        else:
            self.options += words

    def _terminal(self, key: str, node: Node, what: str, line: int) -> None:
        if self.container.is_true(node, what):
            ledger = self.container.reader.ledger
            ledger.add(what, f"docker's {_TERMINAL[key]} is left out: there is no terminal, and no input", line=line)

    def _own(self, key: str, node: Node, what: str, line: int) -> bool:
        """Settings that llamactl has itself; False for any other."""
        reader = self.container.reader
        match key:
            case "restart":
                self.settings["restart"] = self._restart(reader.plain(node, what).lower(), what)
            case "stop_grace_period":
                self._stop("grace", duration(reader.plain(node, what)))
            case "stop_signal":
                signal = reader.plain(node, what).upper()
                signal = signal if signal.startswith("SIG") else f"SIG{signal}"
                if signal not in _SIGNALS:
                    raise Unsayable(f"llamactl stops with {', '.join(_SIGNALS)}, not {signal}")
                self._stop("signal", signal)
            case "scale":
                self.settings["replicas"] = self._replicas(node, what)
            case "profiles":
                self.settings["enabled"] = False
                names = ", ".join(shown(text) for text in reader.words(node, what))
                why = f"compose starts it with the profile {names} only; here it is enabled: false"
                reader.ledger.add(what, why, "llamactl start NAME, or remove the line", line=line)
            case "network_mode":
                mode = shown(reader.text(node, what))
                if mode != "host":
                    why = f"{mode} became host, so that the port llamactl assigns can be reached"
                    reader.ledger.add(what, why, line=line)
            case _:
                return False
        return True

    def _restart(self, text: str, what: str) -> dict[str, OptionValue]:
        name, _, most = text.partition(":")
        if name == "on-failure":
            return {"policy": "on_failure", "max_restarts": int(most)} if most.isdigit() else {"policy": "on_failure"}
        if name not in _RESTARTS:
            raise Unsayable(f"{text!r} is no restart policy", "set restart.policy: always, on_failure or never")
        return {"policy": _RESTARTS[name]}

    def _restarts(self, node: Table) -> None:
        """``deploy.restart_policy`` stands in for ``restart`` where there is one, and its condition is ``any`` unless it says."""
        if self.policy:
            if "restart" in self.settings:
                why = "deploy.restart_policy takes its place, as in compose"
                line = node.entries["restart"].key_place.line
                self.container.reader.ledger.add(f"{self.what}.restart", why, "remove one of the two", line=line)
            self.settings["restart"] = {"policy": "always", **self.policy}
        elif "restart" not in self.settings:
            self.settings["restart"] = {"policy": "never"}  # as compose: nothing said is `restart: no`

    def _stop(self, key: str, value: OptionValue) -> None:
        before = self.settings.get("stop")
        self.settings["stop"] = {**(before if isinstance(before, dict) else {}), key: value}

    def _replicas(self, node: Node, what: str) -> OptionValue:
        text = self.container.reader.text(node, what)
        count = bare(text)
        if count is None:
            raise Unsayable(f"{shown(text)} cannot be worked out here", "set replicas")
        if not count.isdigit() or not 1 <= int(count) <= 64:
            cure = "set enabled: false to stop it" if count == "0" else None
            raise Unsayable(f"an instance has 1 to 64 replicas, not {count}", cure)
        return int(count)

    def _deploy(self, node: Node, what: str) -> None:
        self.container.reader.entries(node)
        for path, inner, line in _leaves(node, ("resources", "reservations", "limits", "restart_policy")):
            place = ".".join((what, *path))
            try:
                if not self._deployed(path, inner, place):
                    self.container.reader.ledger.add(place, "not carried over: there is no swarm", line=line)
            except Unsayable as problem:
                self.container.reader.ledger.problem(place, problem, line=line)

    def _deployed(self, path: tuple[str, ...], node: Node, what: str) -> bool:
        reader = self.container.reader
        match path:
            case ("replicas",):
                self.settings["replicas"] = self._replicas(node, what)
            case ("resources", "reservations", "devices"):
                for words in self.container.gpu_requests(node, what):
                    self.options += words
            case ("resources", "reservations", "memory"):
                self.options += [literal("--memory-reservation"), reader.text(node, what)]
            case ("resources", "limits", limit) if limit in _LIMITS:
                self.options += [literal(_LIMITS[limit]), reader.text(node, what)]
            case ("restart_policy", "condition"):
                self.policy.update(self._restart(reader.plain(node, what), what))
            case ("restart_policy", "delay"):
                self.policy["initial_delay"] = duration(reader.plain(node, what))
            case ("restart_policy", "max_attempts"):
                most = reader.plain(node, what)
                if not most.isdigit():
                    raise Unsayable(f"{most!r} is no number of restarts")
                self.policy["max_restarts"] = int(most)
            case _:
                return False
        return True


def _by_default(image: Text) -> Text:
    return literal("".join(piece.default or "" if isinstance(piece, Ref) else piece for piece in image))


def _leaves(
    node: Node, inner: tuple[str, ...], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Node, int]]:
    """Settings of ``deploy``, the tables named in ``inner`` opened."""
    for key, entry in node.entries.items() if isinstance(node, Table) else ():
        if key in inner and isinstance(entry.node, Table):
            yield from _leaves(entry.node, inner, (*path, key))
        else:
            yield (*path, key), entry.node, entry.key_place.line


IMPORTER = Compose()
