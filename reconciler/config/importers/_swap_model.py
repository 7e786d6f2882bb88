"""One model of a llama-swap file as a draft: its command understood, its settings carried over or reported."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, urlsplit

from reconciler.config._tree import Table
from reconciler.config.importers._carry import VARIABLE, Ledger, withheld
from reconciler.config.importers._macros import PLACEHOLDER, Macros, Undefined, as_text
from reconciler.config.importers._swap_words import (
    program_names,
    relative_paths,
    uncommented,
    with_placeholder,
    without_port,
    words_of,
)
from reconciler.config.importers._variables import Variables
from reconciler.config.importers._walk import Section, scalar_text
from reconciler.config.importers._words import Text, Unsayable, bare, command_line, file_text, joined, literal
from reconciler.config.importers.contract import Draft, Lost, Understand, Unknown
from reconciler.core.errors import Rejected
from reconciler.core.options import NO_SERVER, ParsedCommand
from reconciler.core.spec import OptionValue

HEALTH = "/health"
"""Where llama-swap looks for readiness unless it is told otherwise, as we do."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_REQUEST = "llamactl passes requests on as they are"
_LISTING = "llamactl's /v1/models tells names only"
REASONS: dict[str, tuple[str, str | None]] = {
    "metadata": (_LISTING, "labels: on the instance holds free text for people and tools"),
    "capabilities": (_LISTING, None),
    "unlisted": ("/v1/models lists every instance that the key may use", "give the clients keys with `instances:`"),
    "concurrencyLimit": (
        "llamactl does not limit the parallel requests of an instance; llama-swap does, to 10 where it is 0",
        "use the server's own limit of parallel sequences",
    ),
    "sendLoadingState": ("llamactl puts no text of its own into a reply; a request waits silently for the start", None),
    "timeouts": ("the proxy's timeouts are not settings of an instance; streams have no total timeout", None),
    "compat": ("websockets are not told apart from other requests", None),
    "cmdStop": (
        "llamactl stops a model by signals: one to its main process, then an end to every process that is left",
        "stop: {signal, grace} on the instance; a `docker run` in the foreground hands the signal on",
    ),
}
"""Settings of a model that have no counterpart, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the file says for all models; seconds."""

    ttl: int = 0
    start_timeout: int | None = None
    grace: int = 0
    preload: frozenset[str] = frozenset()


@dataclass(slots=True)
class Model:
    """One model while it is read."""

    name: str
    section: Section
    macros: Macros
    defaults: Defaults
    understand: Understand
    unknown: Unknown
    variables: Variables
    ledger: Ledger = field(init=False)
    command: str | None = None
    """The command line of a known server, as it was understood."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(lost=self.section.lost)

    def draft(self) -> Draft | None:
        """The draft, or None when the model cannot be carried over; either way the section has told of everything else."""
        section = self.section
        macros = section.section("macros")
        self.macros = self.macros.with_section(macros).with_values(MODEL_ID=self.name)
        line = section.line()
        address = self._address()
        parsed, is_known = self._command(address)
        if parsed is None:
            for key in section.table.entries:
                if key not in section.taken:
                    section.lose(key, "its model was left out")
            return None
        told, at = section.path("cmd"), section.line("cmd")
        body: dict[str, OptionValue] = {
            key: withheld(value, self.ledger, told, line=at) for key, value in parsed.instance().items()
        }
        before = body["backend_options"]
        options = dict(before) if isinstance(before, dict) else {}
        self._health(options, is_known)
        self._model_name(options, is_known)
        body["backend_options"] = options
        if not is_known and not _mentions_port(options) and address is not None and address.port is not None:
            body["port"] = address.port
        elif address is not None:
            section.lose(
                "proxy", f"llamactl assigns the port (it was {address.port})", "pin it with port: on the instance"
            )
        body["state"] = "running" if self.name in self.defaults.preload else "on_demand"
        self._times(body)
        self._environment(body)
        labels = self._labels()
        if labels:
            body["labels"] = labels
        aliases = [*self._aliases(), *self._filters()]
        if aliases:
            body["aliases"] = list(dict.fromkeys(alias for alias in aliases if alias != self.name))
        self._without_effect()
        self.macros.tell_unused(macros)
        section.rest(REASONS)
        return Draft(name=self.name, body=body, line=line, where=section.where, lines=self._lines())

    def _lines(self) -> dict[tuple[str | int, ...], int]:
        """Of the settings, by what they became."""
        became = {
            "cmd": ("backend_options", "extra_args", "executable"), "env": ("environment",), "aliases": ("aliases",),
            "ttl": ("idle_timeout",), "unloadTimeout": ("stop",), "proxy": ("port",),
        }  # fmt: skip
        entries = self.section.table.entries
        return {(ours,): self.section.line(key) for key, names in became.items() if key in entries for ours in names}

    def _text(self, key: str) -> Text | None:
        """A setting with its macros replaced; None when it is absent or cannot be said."""
        raw = self.section.text(key)
        if raw is None:
            return None
        try:
            return as_text(self.macros.expand(raw))
        except Undefined as problem:
            self.section.lose(key, str(problem), "define it under macros:")
            return None

    def _value(self, key: str) -> str | None:
        """A setting as a value of our file."""
        text = self._text(key)
        try:
            return None if text is None else file_text(text)
        except Unsayable as problem:
            self.section.lose(key, str(problem), problem.cure)
            return None

    def _address(self) -> SplitResult | None:
        """``proxy:`` where it says something of its own; a port that is assigned and loopback are how it is here anyway."""
        text = self._text("proxy")
        if text is None:
            return None
        address = bare(text)
        if address is None:
            self.section.lose("proxy", "an address from a variable is not known here", "llamactl assigns the address")
            return None
        try:
            parts = urlsplit(address.replace(PLACEHOLDER, "0"))
            port = parts.port
        except ValueError:
            self.section.lose("proxy", "this is not a URL", "llamactl assigns the address")
            return None
        if parts.hostname not in _LOOPBACK:
            why = "what is started here listens on loopback; another host is not started by this command"
            self.section.lose(
                "proxy", why, "declare that server as an instance of its own, with backend_type: external"
            )
        elif parts.path.rstrip("/"):
            self.section.lose("proxy", "the path before /v1 has no counterpart for a server that llamactl starts")
        return parts if port else None

    def _command(self, address: SplitResult | None) -> tuple[ParsedCommand | None, bool]:
        """The command understood by a backend that knows it (True), or taken as it is (False); None when it is neither."""
        section = self.section
        node = section.node("cmd")
        raw = scalar_text(node) if node is not None else None
        if raw is None:
            why = "a text was expected here" if node is not None else "a model without a command cannot be started"
            section.lose("cmd", f"the model was left out: {why}", "write cmd:")
            return None, False
        try:
            words = words_of(self.macros.expand(uncommented(raw)))
            if not words:
                raise Undefined("the command is empty")
            return self._understood(words, address)
        except (Undefined, Unsayable, ValueError) as problem:
            why = f"the model was left out, because its command cannot be read: {problem}"
            section.lose("cmd", why, getattr(problem, "cure", None))
        except Rejected as refusal:
            first = refusal.problems[0]
            section.lose("cmd", f"the model was left out: {first.message}", first.hint)
        return None, False

    def _understood(self, words: list[Text], address: SplitResult | None) -> tuple[ParsedCommand, bool]:
        self._relative(words)
        portless = without_port(words)
        for program in program_names(words[0]):
            try:
                command = command_line([program, *portless[1:]])
                parsed = self.understand(command)
            except Rejected as refusal:
                first = refusal.problems[0]
                if first.code != NO_SERVER:
                    why = f"the command is kept as it is, because it cannot be read: {first.message}"
                    self.section.lose("cmd", why, first.hint)
                continue
            if PLACEHOLDER in repr(parsed):
                break  # it needs the port in a place that only the whole command has
            self._told(parsed)
            self.command = command
            if program != words[0]:
                parsed = replace(parsed, executable=shlex.quote(file_text(words[0])))
                why = f"{parsed.executable} was taken for a build of {file_text(program)}"
                self.section.lose("cmd", why, "if it is another program, use backend_type: custom")
            return parsed, True
        if address is not None and address.port:
            words = [with_placeholder(words, at, str(address.port)) for at in range(len(words))]
        parsed = self.unknown(command_line(words))
        self._told(parsed)
        return parsed, False

    def _told(self, parsed: ParsedCommand) -> None:
        self.ledger.warnings(self.section.path("cmd"), parsed, line=self.section.line("cmd"))

    def _relative(self, words: list[Text]) -> None:
        found = relative_paths(words)
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            why = f"{found[0]}{more} is looked for from the folder that the daemon runs in"
            cure = "write whole paths, or working_directory: with the folder that llama-swap ran in"
            self.section.lose("cmd", why, cure)

    def _health(self, options: dict[str, OptionValue], is_known: bool) -> None:
        path = self._value("checkEndpoint")
        if path is None or path == HEALTH:
            return
        if is_known:
            self.section.lose("checkEndpoint", "llamactl knows by itself how this server tells that it is ready")
        elif path.startswith("/"):
            options["health_path"] = path
        else:
            cure = f"llamactl asks {HEALTH}; set health_path to a path that answers 2xx"
            self.section.lose("checkEndpoint", "a server is never taken for ready without having answered", cure)

    def _model_name(self, options: dict[str, OptionValue], is_known: bool) -> None:
        name = self._value("useModelName")
        if not name:
            return
        if is_known:
            why = "llamactl sends this server the name that it serves by itself"
            self.section.lose("useModelName", why, f"if it serves several, ask for INSTANCE/{name}")
        else:
            options["model"] = name

    def _times(self, body: dict[str, OptionValue]) -> None:
        ttl = self.section.integer("ttl")
        ttl = self.defaults.ttl if ttl is None or ttl < 0 else ttl
        if ttl > 0 and body["state"] == "on_demand":
            body["idle_timeout"] = f"{ttl}s"
        elif ttl > 0:
            why = "it is started at once and kept (preload), and what is kept has no idle time"
            self.section.lose("ttl", why, "state: on_demand gives it one, and starts it with its first request")
        if self.defaults.start_timeout is not None:
            body["start_timeout"] = f"{self.defaults.start_timeout}s"
        grace = self.section.integer("unloadTimeout") or self.defaults.grace
        if grace > 0:
            body["stop"] = {"grace": f"{grace}s"}

    def _environment(self, body: dict[str, OptionValue]) -> None:
        before = body.get("environment")
        found: dict[str, OptionValue] = {}
        for item in self.section.items("env"):
            raw = scalar_text(item) or ""
            name, equals, _ = raw.partition("=")
            try:
                text = as_text(self.macros.expand(raw))
                first = text[0] if text and isinstance(text[0], str) else ""
                name, equals, start = first.partition("=")
                if not equals or not VARIABLE.fullmatch(name):
                    self._item_lost("env", "an entry", "it is not NAME=value", item.place.line)
                    continue
                what = f"{self.section.path('env')}: {name}"
                value = self.variables.carried(
                    name,
                    joined(literal(start), text[1:]),
                    what,
                    self.ledger,
                    command=self.command,
                    line=item.place.line,
                )
            except (Undefined, Unsayable) as problem:
                self._item_lost("env", name, str(problem), item.place.line)
                continue
            if value is not None:
                found[name] = value
        if isinstance(before, dict):
            found = {**found, **before}
        if found:
            body["environment"] = found

    def _item_lost(self, key: str, what: str, why: str, line: int) -> None:
        self.section.lost.append(Lost(what=f"{self.section.path(key)}: {what}", why=why, line=line))

    def _labels(self) -> dict[str, OptionValue]:
        labels: dict[str, OptionValue] = {}
        for key in ("name", "description"):
            value = self._value(key)
            if value:
                labels[key] = value
                self.section.lose(key, f"kept as a label; {_LISTING}")
        return labels

    def _aliases(self) -> list[str]:
        found = []
        for at, item in enumerate(self.section.items("aliases")):
            text = scalar_text(item)
            if isinstance(item, Table):
                below = Section(item, f"{self.section.path('aliases')}[{at}]", self.section.lost)
                text = below.text("id")
                below.rest({"name": (_LISTING, None), "unlisted": REASONS["unlisted"]})
            if not text:
                self._item_lost("aliases", f"item {at + 1}", "it names no model", item.place.line)
                continue
            try:
                found.append(file_text(as_text(self.macros.expand(text))))
            except (Undefined, Unsayable) as problem:
                self._item_lost("aliases", f"item {at + 1}", str(problem), item.place.line)
        return found

    def _filters(self) -> list[str]:
        """Filters are lost; the names that ``setParamsByID`` makes stay, as aliases."""
        filters = self.section.section("filters")
        if filters is None:
            return []
        names = []
        by_name = filters.section("setParamsByID")
        if by_name is not None:
            for key in by_name.table.entries:
                by_name.lose(key, f"{_REQUEST}; the name stays, as an alias without these parameters", _FILTER_CURE)
                try:
                    names.append(file_text(as_text(self.macros.expand(key))))
                except (Undefined, Unsayable):
                    continue  # the loss of the key was told just now
        filters.rest(dict.fromkeys(filters.table.entries, (_REQUEST, _FILTER_CURE)))
        return names

    def _without_effect(self) -> None:
        """Settings given with the value that means nothing."""
        for key, nothing in (
            ("unlisted", False),
            ("sendLoadingState", False),
            ("cmdStop", ""),
        ):
            entry = self.section.table.entries.get(key)
            if entry is not None and getattr(entry.node, "value", None) == nothing:
                self.section.taken.add(key)


_FILTER_CURE = "set the server's own defaults for sampling, or let the clients send what they mean"


def _mentions_port(options: dict[str, OptionValue]) -> bool:
    return PLACEHOLDER in repr(options)
