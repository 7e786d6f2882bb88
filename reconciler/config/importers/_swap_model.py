"""One model of a llama-swap file as a draft: its command understood, its settings carried over or reported."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, urlsplit

from reconciler.config._tree import Table
from reconciler.config.importers._macros import PLACEHOLDER, Macros, Undefined, as_text
from reconciler.config.importers._walk import Section, scalar_text
from reconciler.config.importers._words import Text, Unsayable, bare, command_line, file_text, joined, literal
from reconciler.config.importers.contract import Draft, Lost, Understand, Unknown
from reconciler.core.errors import Rejected
from reconciler.core.options import NO_SERVER, ParsedCommand
from reconciler.core.spec import OptionValue

HEALTH = "/health"
"""Where llama-swap looks for readiness unless it is told otherwise, as we do."""
_BUILD = re.compile(
    r"(.*/)?([A-Za-z][A-Za-z_.-]*?)[-_.](?:[0-9a-f]{5,40}|b?[0-9][0-9.]*|latest|cuda|vulkan|rocm|cpu|metal)"
)
"""A program's name with a build behind it, as in ``llama-server-ec9e0301``."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PORT_FLAG = re.compile(r"--?(?:[a-z]+[-_])*port", re.IGNORECASE)
_REQUEST = "llamactl passes requests on as they are"
_LISTING = "llamactl's /v1/models tells names only"
REASONS: dict[str, tuple[str, str | None]] = {
    "metadata": (_LISTING, "labels: on the instance holds free text for people and tools"),
    "capabilities": (_LISTING, None),
    "unlisted": ("/v1/models lists every instance that the key may use", "give the clients keys with `instances:`"),
    "concurrencyLimit": (
        "llamactl does not limit the parallel requests of an instance",
        "use the server's own limit of parallel sequences",
    ),
    "sendLoadingState": ("llamactl puts no text of its own into a reply; a request waits silently for the start", None),
    "timeouts": ("the proxy's timeouts are not settings of an instance; streams have no total timeout", None),
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

    def draft(self) -> Draft | None:
        """The draft, or None when the model cannot be carried over; either way the section has told of everything else."""
        section = self.section
        self.macros = self.macros.with_section(section.section("macros")).with_values(MODEL_ID=self.name)
        line = section.line()
        address = self._address()
        parsed, is_known = self._command(address)
        if parsed is None:
            for key in section.table.entries:
                if key not in section.taken:
                    section.lose(key, "its model could not be carried over")
            return None
        body: dict[str, OptionValue] = parsed.instance()
        options = dict(parsed.backend_options)
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
        section.rest(REASONS)
        return Draft(name=self.name, body=body, line=line)

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
        raw = section.text("cmd")
        if raw is None:
            section.lose("cmd", "a model without a command cannot be started", "write cmd:")
            return None, False
        try:
            words = _words(self.macros.expand(_uncommented(raw)))
            if not words:
                raise Undefined("the command is empty")
            return self._understood(words, address)
        except (Undefined, Unsayable, ValueError) as problem:
            section.lose("cmd", f"this command cannot be read: {problem}", getattr(problem, "cure", None))
        except Rejected as refusal:
            first = refusal.problems[0]
            section.lose("cmd", f"this command cannot be carried over: {first.message}", first.hint)
        return None, False

    def _understood(self, words: list[Text], address: SplitResult | None) -> tuple[ParsedCommand, bool]:
        without_port = _without_port(words)
        for program in _names(words[0]):
            try:
                parsed = self.understand(command_line([program, *without_port[1:]]))
            except Rejected as refusal:
                first = refusal.problems[0]
                if first.code != NO_SERVER:
                    why = f"the command is kept as it is, because it cannot be read: {first.message}"
                    self.section.lose("cmd", why, first.hint)
                continue
            if PLACEHOLDER in repr(parsed):
                break  # it needs the port in a place that only the whole command has
            self._told(parsed)
            if program != words[0]:
                parsed = replace(parsed, executable=shlex.quote(file_text(words[0])))
                why = f"{parsed.executable} was taken for a build of {file_text(program)}"
                self.section.lose("cmd", why, "if it is another program, use backend_type: custom")
            return parsed, True
        if address is not None and address.port:
            words = [_with_placeholder(words, at, str(address.port)) for at in range(len(words))]
        parsed = self.unknown(command_line(words))
        self._told(parsed)
        return parsed, False

    def _told(self, parsed: ParsedCommand) -> None:
        line = self.section.line("cmd")
        for warning in parsed.warnings:
            told = re.sub(r"^\d+:\d+: ", "", warning)
            self.section.lost.append(Lost(what=self.section.path("cmd"), why=told, line=line))

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
                text = file_text(as_text(self.macros.expand(raw)))
            except (Undefined, Unsayable) as problem:
                self._item_lost("env", name, str(problem), item.place.line)
                continue
            name, equals, value = text.partition("=")
            if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                self._item_lost("env", "an entry", "it is not NAME=value", item.place.line)
                continue
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
            ("concurrencyLimit", 0),
            ("unlisted", False),
            ("sendLoadingState", False),
            ("cmdStop", ""),
        ):
            entry = self.section.table.entries.get(key)
            if entry is not None and getattr(entry.node, "value", None) == nothing:
                self.section.taken.add(key)


_FILTER_CURE = "set the server's own defaults for sampling, or let the clients send what they mean"


def _uncommented(text: str) -> str:
    """Without the lines that are comments; a macro named in one is none that is used."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def _words(expanded: str) -> list[Text]:
    """The command's words as llama-swap splits them: comment lines out, lines joined, quotes undone, no shell."""
    joined_lines = " ".join(re.sub(r"\\\s*$", "", line) for line in _uncommented(expanded).splitlines())
    return [as_text(word) for word in shlex.split(joined_lines)]


def _without_port(words: list[Text]) -> list[Text]:
    """The words less ``--port ${PORT}``, which is how it is here anyway."""
    kept: list[Text] = []
    for word in words:
        said = bare(word) or ""
        before = bare(kept[-1]) if kept else None
        if said == PLACEHOLDER and before is not None and (_PORT_FLAG.fullmatch(before) or before == "-p"):
            kept.pop()
        elif not (said.endswith(f"={PLACEHOLDER}") and _PORT_FLAG.fullmatch(said.partition("=")[0])):
            kept.append(word)
    return kept


def _names(first: Text) -> list[Text]:
    """The program as it is called, then as it may be called without the build in its name."""
    said = bare(first) or ""
    found = _BUILD.fullmatch(said)
    return [first] if found is None else [first, literal(found[2])]


def _with_placeholder(words: list[Text], at: int, port: str) -> Text:
    """A word with a fixed port given up for the one that is assigned: ``--port 9000``, ``--listen=:9000``, ``-p 9000:80``."""
    said = bare(words[at])
    if at == 0 or said is None:
        return words[at]
    return joined(literal(re.sub(rf"(^|[=:]){port}(?=$|:)", rf"\g<1>{PLACEHOLDER}", said, count=1)))


def _mentions_port(options: dict[str, OptionValue]) -> bool:
    return PLACEHOLDER in repr(options)
