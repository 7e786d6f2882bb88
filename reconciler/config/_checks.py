"""What only the whole fleet can show: names, aliases and ports that collide, keys for instances that do not exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.config._problems import Reporter, nearest
from reconciler.config._tree import Path, Place, Scalar, Table, find, locate
from reconciler.core.spec import NAME_PATTERN, AuthSpec, BackendsSpec, InstanceSpec, InstanceState, ServerSpec

_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One instance of the file, with where everything of it was written."""

    name: str
    key_place: Place
    own: Table
    """As written under its name."""
    merged: Table
    """With ``defaults`` below."""
    spec: InstanceSpec

    def place(self, path: Path) -> Place:
        """Where a setting stands, in the instance or in ``defaults``; the instance's key when it stands nowhere."""
        return locate(self.merged, path) if path and find(self.merged, path[:1]) is not None else self.key_place

    def path(self, path: Path) -> Path:
        """A setting's place in the document."""
        return ("instances", self.name, *path)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCheck:
    """One per load."""

    declared: Sequence[Declared]
    names: Mapping[str, Place]
    """Every name in the file, those of unusable instances included."""
    server: ServerSpec
    server_table: Table
    defaults: Table
    reporter: Reporter

    def run(self) -> None:
        """Report everything."""
        self._names()
        self._aliases()
        self._variables()
        self._range()
        self._ports()
        self._idle()

    def _names(self) -> None:
        seen: dict[str, tuple[str, Place]] = {}
        for name, place in self.names.items():
            if not re.fullmatch(NAME_PATTERN, name):
                if re.search(NAME_PATTERN, name):  # the schema's `$` lets a final newline pass
                    self.reporter.error(place, f"cannot use {name!r} as an instance name", path=("instances", name))
                continue  # anything else the structure check has said
            other = seen.setdefault(name.lower(), (name, place))
            if other[0] != name:
                message = f"`{name}` and `{other[0]}` differ by case only"
                hint = f"rename one; the other is at line {other[1].line}"
                self.reporter.error(place, message, path=("instances", name), hint=hint, also=(other[1],))

    def _aliases(self) -> None:
        owners: dict[str, tuple[str, Place]] = {}
        for one in self.declared:
            for index, alias in enumerate(one.spec.aliases):
                path: Path = ("aliases", index)
                place = one.place(path)
                if not alias.strip():
                    self.reporter.error(place, "an alias must not be empty", path=one.path(path))
                elif not alias.isprintable():
                    self.reporter.error(place, "an alias must not hold control characters", path=one.path(path))
                elif alias in self.names:
                    whose = "its own name" if alias == one.name else "the name of another instance"
                    self.reporter.error(
                        place, f"the alias `{alias}` is {whose}", path=one.path(path), also=(self.names[alias],)
                    )
                elif alias in owners:
                    owner, first = owners[alias]
                    message = f"the alias `{alias}` is given twice"
                    hint = f"`{owner}` has it at line {first.line}; keep one"
                    self.reporter.error(place, message, path=one.path(path), hint=hint, also=(first,))
                else:
                    owners[alias] = (one.name, place)

    def _variables(self) -> None:
        check_variables(self.defaults, ("defaults",), self.reporter)
        for one in self.declared:
            check_variables(one.own, one.path(()), self.reporter)

    def _range(self) -> None:
        first, last = self.server.ports()
        if not 1 <= first <= last <= _HIGHEST_PORT:
            place = locate(self.server_table, ("port_range",))
            message = f"port_range {self.server.port_range} is not a range of ports"
            self.reporter.error(
                place, message, path=("server", "port_range"), hint=f"write first-last, within 1-{_HIGHEST_PORT}"
            )

    def _ports(self) -> None:
        owners: dict[int, tuple[str, Place]] = {}
        for one in self.declared:
            pin = self._pin(one)
            if pin is None:
                continue
            port, path = pin
            place = one.place(path)
            if one.spec.replicas > 1:
                message = f"port {port} cannot be pinned for {one.spec.replicas} replicas"
                self.reporter.error(
                    place, message, path=one.path(path), hint="remove the port: each replica is given its own"
                )
            elif port == self.server.port:
                message = f"port {port} is the one this server itself listens on"
                self.reporter.error(place, message, path=one.path(path), hint="choose another, or leave it out")
            elif port in owners:
                owner, first = owners[port]
                message = f"port {port} is pinned by two instances"
                hint = f"`{owner}` has it at line {first.line}; leave one out and it is assigned"
                self.reporter.error(place, message, path=one.path(path), hint=hint, also=(first,))
            else:
                owners[port] = (one.name, place)

    def _pin(self, one: Declared) -> tuple[int, Path] | None:
        """The pinned port and where it is written; a port option that is none, or another than the instance's, is the backend's to tell."""
        option = one.spec.backend_options.get("port")
        if isinstance(option, str) and option.isascii() and option.isdecimal() and len(option) <= 5:
            option = int(option)  # options may be given as the text that goes on the command line
        if isinstance(option, int) and not isinstance(option, bool) and 1 <= option <= _HIGHEST_PORT:
            return option, ("backend_options", "port")
        return (one.spec.port, ("port",)) if one.spec.port is not None else None

    def _idle(self) -> None:
        """``defaults`` may give it to a mixed fleet; on its own instance, or when nothing starts on demand, it does nothing."""
        nothing_on_demand = all(one.spec.state is not InstanceState.ON_DEMAND for one in self.declared)
        for one in self.declared:
            if one.spec.idle_timeout is None or one.spec.state is InstanceState.ON_DEMAND:
                continue
            if "idle_timeout" in one.own.entries:
                message = "idle_timeout does nothing for an instance that is always running"
                path = one.path(("idle_timeout",))
                where = locate(one.own, ("idle_timeout",), on_key=True)
                self.reporter.warning(where, message, path=path, hint="add `state: on_demand`, or remove it")
            elif nothing_on_demand:
                message = "idle_timeout does nothing: no instance is `state: on_demand`"
                where = locate(self.defaults, ("idle_timeout",), on_key=True)
                self.reporter.warning(where, message, path=("defaults", "idle_timeout"))


def check_variables(table: Table, path: Path, reporter: Reporter) -> None:
    """No process can be given a variable without a name, or with ``=`` in it; ``table`` is what holds an ``environment``."""
    environment = find(table, ("environment",))
    for name in environment.entries if isinstance(environment, Table) else ():
        if not name or "=" in name:
            place = locate(table, ("environment", name))
            message = f"{name!r} cannot be the name of a variable"
            hint = "write NAME: value" if name else None
            reporter.error(place, message, path=(*path, "environment", name), hint=hint)


def check_key_instances(
    auth: AuthSpec, table: Table, indexes: Sequence[int], declared: Mapping[str, Place], reporter: Reporter
) -> None:
    """Every instance that an inference key names must be declared; ``indexes`` are the keys' places in the written list."""
    for index, key in zip(indexes, auth.inference_keys, strict=False):  # no keys: all were refused
        for position, name in enumerate(key.instances or ()):
            if name not in declared:
                path: Path = ("inference_keys", index, "instances", position)
                meant = nearest(name, declared)
                hint = f"did you mean `{meant}`?" if meant else "name an instance of this file (aliases do not count)"
                reporter.error(locate(table, path), f"no instance is called `{name}`", path=("auth", *path), hint=hint)


def check_executables(backends: BackendsSpec, table: Table, reporter: Reporter) -> None:
    """Executables are split as a shell would: quotes must be closed, and something must be left."""
    for setting in BackendsSpec.model_fields:
        value = getattr(backends, setting)
        if not setting.endswith("_executable"):
            continue
        node = find(table, (setting,))
        place = node.place if isinstance(node, Scalar) else None
        try:
            words = shlex.split(value)
        except ValueError as error:
            message = f"cannot split this into words: {str(error).lower()}"
            reporter.error(place, message, path=("backends", setting), hint="close the quote")
            continue
        if not words:
            reporter.error(place, "an executable must not be empty", path=("backends", setting))
