"""One service's container settings as options of ``docker run``. What has no such option is left to the caller, who reports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from reconciler.config._tree import Node, Scalar, Sequence, Table, child
from reconciler.config.importers._carry import VARIABLE
from reconciler.config.importers._compose_text import RESOLVED, Reader, is_path
from reconciler.config.importers._words import Ref, Text, Unsayable, bare, joined, literal, shown

_VALUES = {
    "user": "--user", "runtime": "--runtime", "ipc": "--ipc", "shm_size": "--shm-size", "working_dir": "--workdir",
    "hostname": "--hostname", "domainname": "--domainname", "platform": "--platform", "pid": "--pid", "uts": "--uts",
    "userns_mode": "--userns", "cgroup": "--cgroupns", "cgroup_parent": "--cgroup-parent", "mem_limit": "--memory",
    "memswap_limit": "--memory-swap", "mem_reservation": "--memory-reservation",
    "mem_swappiness": "--memory-swappiness", "cpus": "--cpus", "cpuset": "--cpuset-cpus", "cpu_shares": "--cpu-shares",
    "cpu_quota": "--cpu-quota", "cpu_period": "--cpu-period", "pids_limit": "--pids-limit",
    "oom_score_adj": "--oom-score-adj",
}  # fmt: skip
_SWITCHES = {
    "privileged": "--privileged", "read_only": "--read-only", "init": "--init", "oom_kill_disable": "--oom-kill-disable",
}  # fmt: skip
_LISTS = {
    "cap_add": "--cap-add", "cap_drop": "--cap-drop", "security_opt": "--security-opt", "group_add": "--group-add",
    "dns": "--dns", "dns_search": "--dns-search", "dns_opt": "--dns-option", "tmpfs": "--tmpfs",
    "device_cgroup_rules": "--device-cgroup-rule",
}  # fmt: skip
_PAIRS = {"labels": "--label", "annotations": "--annotation", "sysctls": "--sysctl", "storage_opt": "--storage-opt"}
_PULLS = {"always": "always", "missing": "missing", "if_not_present": "missing", "never": "never"}
EXTERNAL = "external"
"""Compose's word for a volume that it does not make itself, and so does not rename."""
_USUAL_CAPABILITIES = frozenset({"gpu", "nvidia", "compute", "utility"})
"""What NVIDIA's runtime gives a container that asks for a GPU."""


@dataclass(frozen=True, slots=True)
class Container:
    """Turns settings into words, one service at a time."""

    reader: Reader
    project: str | None
    """Name of the compose project, which stands before its volumes' names; None when it is not known."""
    volumes: Mapping[str, Node]
    """The file's own ``volumes`` section."""

    def words(self, key: str, node: Node, what: str) -> list[Text] | None:
        """The options for one setting; None when ``docker run`` has none for it. Unsayable for a value that cannot be said."""
        if key in _VALUES:
            text = self.reader.text(node, what)
            if (bare(text) or "").startswith("service:"):
                raise Unsayable("it shares with another service, which llamactl does not run")
            return [literal(_VALUES[key]), text]
        if key in _SWITCHES:
            return [literal(_SWITCHES[key])] if self.is_true(node, what) else []
        if key in _LISTS:
            return [word for text in self.reader.words(node, what) for word in (literal(_LISTS[key]), text)]
        if key in _PAIRS:
            return [word for text in self._pairs(key, node, what) for word in (literal(_PAIRS[key]), text)]
        special = self._special().get(key)
        return None if special is None else [word for text in special(node, what) for word in text]

    def _special(self) -> Mapping[str, Callable[[Node, str], Iterator[tuple[Text, ...]]]]:
        return {
            "environment": self._environment,
            "env_file": self._env_files,
            "volumes": self._volumes,
            "devices": self._devices,
            "gpus": self._gpus,
            "ulimits": self._ulimits,
            "extra_hosts": self._hosts,
            "pull_policy": self._pull,
        }

    def is_true(self, node: Node, what: str) -> bool:
        """A scalar that says yes or no; Unsayable for anything else."""
        text = self.reader.plain(node, what).lower()
        if text not in ("true", "false"):
            raise Unsayable(f"{text!r} is neither true nor false")
        return text == "true"

    def _pairs(self, key: str, node: Node, what: str) -> Iterator[Text]:
        for name, value, line in self.reader.pairs(node, what):
            if key == "sysctls" and name.startswith("net."):
                why = "the container shares the host's network, whose settings it may not change"
                self.reader.ledger.add(f"{what}.{name}", why, f"set {name} on the host", line=line)
            else:
                value = self.reader.ledger.environment(name, value or (), f"{what}.{name}", line=line)
                yield joined(literal(f"{name}="), value)

    def _environment(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        for name, value, line in self.reader.pairs(node, what):
            if self.reader.ledger.listening(name, f"{what}.{name}", line=line):
                continue
            if not VARIABLE.fullmatch(name):
                why, cure = "a container of llamactl's is not given a variable of this name", "rename it"
                self.reader.ledger.add(f"{what}.{name}", why, cure, line=line)
            elif value is None:
                why = f"{name} is handed on from llamactl's own environment, where compose takes its own"
                self.reader.ledger.variable(name, f"{what}.{name}", why, f"set {name} for llamactl", line=line)
                yield (literal("-e"), literal(name))
            else:
                value = self.reader.ledger.environment(name, value, f"{what}.{name}", line=line)
                yield (literal("-e"), joined(literal(f"{name}="), value))

    def _env_files(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        for item in node.items if isinstance(node, Sequence) else (node,):
            path = child(item, "path") if isinstance(item, Table) else item
            if path is None:
                raise Unsayable("an env_file without a path")
            if isinstance(item, Table) and set(item.entries) > {"path"}:
                why = "docker run knows only the path: the file must exist and be plain NAME=value lines"
                self.reader.ledger.add(what, why, line=item.place.line)
            text = self.reader.path(self.reader.text(path, what), what, path.place.line)
            why = f"it is read by docker ({shown(text)}): quotes in it are kept as they are, and a change of it restarts nothing"
            cure = "write its variables under environment where that matters"
            self.reader.ledger.add(what, why, cure, line=path.place.line)
            yield (literal("--env-file"), text)

    # -- volumes ------------------------------------------------------------------------------------------------------

    def _volumes(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        for index, item in enumerate(self.reader.items(node)):
            place = f"{what}[{index}]"
            try:
                if isinstance(item, Table):
                    yield self._long_volume(item, place)
                else:
                    yield self._short_volume(self.reader.text(item, place), place, item.place.line)
            except Unsayable as problem:
                self.reader.ledger.problem(place, problem, line=item.place.line)

    def _short_volume(self, text: Text, what: str, line: int) -> tuple[Text, ...]:
        source, colon, rest = _partition(text)
        if not colon:
            return (literal("-v"), text)
        return (literal("-v"), joined(self._source(source, what, line), literal(":"), rest))

    def _source(self, source: Text, what: str, line: int) -> Text:
        first = source[0] if source else ""
        if isinstance(first, Ref) and first.default and not is_path(literal(first.default)):  # the name of a volume
            if len(source) > 1:
                raise Unsayable(f"{shown(source)} cannot be worked out here", "write the volume's name")
            return (Ref(first.name, bare(self._source(literal(first.default), what, line))),)
        if is_path(source):
            return self.reader.path(source, what, line)
        name = bare(source)
        if name is None:
            raise Unsayable(f"{shown(source)} cannot be worked out here", "write the volume's name")
        declared = self.volumes.get(name)
        given = child(declared, "name") if declared is not None else None
        if given is not None:
            return self.reader.text(given, what)
        external = child(declared, EXTERNAL) if declared is not None else None
        if isinstance(external, Scalar) and external.value is True:
            return source
        if self.project is None:
            why = f"compose puts its project's name before the volume's: PROJECT_{name}; here it is {name}"
            self.reader.ledger.add(what, why, "find the volume with docker volume ls and write its name", line=line)
            return source
        full = f"{self.project}_{name}"
        why = f"the volume is called {full}, as compose makes it from its project's name"
        self.reader.ledger.add(what, why, "check it with docker volume ls", line=line)
        return literal(full)

    def _long_volume(self, item: Table, what: str) -> tuple[Text, ...]:
        line = item.place.line
        given = {key: entry.node for key, entry in item.entries.items()}
        kind = self.reader.plain(given.pop("type", Scalar("volume", item.place, "volume")), what)
        target = given.pop("target", None)
        if target is None:
            raise Unsayable("a volume without a target")
        end = self.reader.text(target, what)
        source = given.pop("source", None)
        modes: list[str] = []
        if "read_only" in given and self.is_true(given.pop("read_only"), what):
            modes.append("ro")
        details = given.pop(kind, None)
        known = {"bind": ("propagation", "selinux"), "volume": ("nocopy",), "tmpfs": ("size",)}
        if kind not in known:
            raise Unsayable(
                f"volumes of type {kind} are not carried over", "mount it with docker's --mount in executable"
            )
        size: Text = ()
        for key, entry in details.entries.items() if isinstance(details, Table) else ():
            if key not in known[kind]:
                self.reader.ledger.add(f"{what}.{kind}.{key}", "not carried over", line=entry.key_place.line)
            elif key == "size":
                size = joined(literal(":size="), self.reader.text(entry.node, what))
            elif key == "nocopy":
                modes += ["nocopy"] if self.is_true(entry.node, what) else []
            else:
                modes.append(self.reader.plain(entry.node, what))
        for key in given:
            self.reader.ledger.add(f"{what}.{key}", "not carried over", line=item.entries[key].key_place.line)
        if kind == "tmpfs":
            return (literal("--tmpfs"), joined(end, size))
        if source is None:
            return (literal("-v"), end)
        text = self.reader.text(source, what)
        start = self.reader.path(text, what, line) if kind == "bind" else self._source(text, what, line)
        tail = literal(":" + ",".join(modes)) if modes else ()
        return (literal("-v"), joined(start, literal(":"), end, tail))

    def _only(self, item: Table, known: tuple[str, ...], what: str) -> None:
        """Tell every other key of a mapping."""
        for key, entry in item.entries.items():
            if key not in known:
                why = "not carried over: docker run has no such setting"
                self.reader.ledger.add(f"{what}.{key}", why, line=entry.key_place.line)

    # -- devices ------------------------------------------------------------------------------------------------------

    def _devices(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        for index, item in enumerate(self.reader.items(node)):
            if isinstance(item, Table):
                self._only(item, ("source", "target", "permissions"), f"{what}[{index}]")
                steps = [child(item, key) for key in ("source", "target", "permissions")]
                texts = [self.reader.text(step, what) for step in steps if step is not None]
                colons = [word for text in texts for word in (literal(":"), text)]
                yield (literal("--device"), joined(*colons[1:]))
            else:
                yield (literal("--device"), self.reader.text(item, what))

    def _gpus(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        if isinstance(node, Scalar):
            yield (literal("--gpus"), self.reader.text(node, what))
            return
        yield from self.gpu_requests(node, what)

    def gpu_requests(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        """``gpus`` as a list, or ``deploy.resources.reservations.devices``, which have one form."""
        for index, item in enumerate(self.reader.items(node)):
            if not isinstance(item, Table):
                raise Unsayable("expected a list of devices")
            place = f"{what}[{index}]"
            driver = child(item, "driver")
            name = self.reader.plain(driver, place) if driver is not None else "nvidia"
            ids_node = child(item, "device_ids")
            ids = self.reader.words(ids_node, place) if ids_node is not None else ()
            self._only(item, ("driver", "count", "device_ids", "capabilities"), place)
            if name == "cdi":
                yield from ((literal("--device"), one) for one in ids)
                continue
            if name not in ("nvidia", ""):
                raise Unsayable(f"devices of the driver {name} are not carried over", "add --device to executable")
            self._capabilities(item, place)
            yield (literal("--gpus"), self._gpu_value(item, ids, place))

    def _capabilities(self, item: Table, what: str) -> None:
        node = child(item, "capabilities")
        for one in node.items if isinstance(node, Sequence) else ():
            for text in self.reader.words(one, what):
                if shown(text) not in _USUAL_CAPABILITIES:
                    cure = "write --gpus 'all,\"capabilities=...\"' in executable"
                    why = f"the capability {shown(text)} is not asked for"
                    self.reader.ledger.add(f"{what}.capabilities", why, cure, line=one.place.line)

    def _gpu_value(self, item: Table, ids: tuple[Text, ...], what: str) -> Text:
        if ids:
            commas = [word for text in ids for word in (literal(","), text)]
            value = joined(literal("device="), *commas[1:])
            return joined(literal('"'), value, literal('"')) if len(ids) > 1 else value
        count = child(item, "count")
        text = self.reader.text(count, what) if count is not None else literal("all")
        return literal("all") if bare(text) == "-1" else text

    def _ulimits(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        for name, entry in self.reader.entries(node).items():
            if isinstance(entry.node, Table):
                self._only(entry.node, ("soft", "hard"), f"{what}.{name}")
                sides = [child(entry.node, side) for side in ("soft", "hard")]
                texts = [self.reader.text(side, what) for side in sides if side is not None]
                value = joined(texts[0], literal(":"), texts[1]) if len(texts) == 2 else joined(*texts)
            else:
                value = self.reader.text(entry.node, what)
            yield (literal("--ulimit"), joined(literal(f"{name}="), value))

    def _hosts(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        if isinstance(node, Table):
            for name, entry in node.entries.items():
                for address in self.reader.words(entry.node, what):
                    yield (literal("--add-host"), joined(literal(f"{name}:"), address))
            return
        for text in self.reader.words(node, what):
            first = text[0] if text else ""
            name, equals, rest = first.partition("=") if isinstance(first, str) else ("", "", "")
            yield (literal("--add-host"), joined(literal(f"{name}:{rest}"), text[1:]) if equals else text)

    def _pull(self, node: Node, what: str) -> Iterator[tuple[Text, ...]]:
        policy = self.reader.plain(node, what)
        if policy not in _PULLS:
            raise Unsayable(f"docker run cannot pull by {policy}", f"build or pull the image yourself; {RESOLVED}")
        yield (literal("--pull"), literal(_PULLS[policy]))


def _partition(text: Text) -> tuple[Text, bool, Text]:
    """At the first colon that is literal."""
    for at, piece in enumerate(text):
        if isinstance(piece, Ref) or ":" not in piece:
            continue
        before, _, after = piece.partition(":")
        return joined(text[:at], literal(before)), True, joined(literal(after), text[at + 1 :])
    return text, False, ()
