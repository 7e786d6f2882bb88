"""Files to a ``Fleet``, or ``Rejected`` with everything that is wrong, each problem at its file, line and column.

Read top to bottom, :func:`load` is the list of steps. Nothing here has an effect but reading key files; no half-checked value leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace as changed
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from reconciler.config._checks import Declared, FleetCheck, check_executables, check_key_instances, check_variables
from reconciler.config._expand import Expander
from reconciler.config._guard import Guard
from reconciler.config._keys import KeyReader
from reconciler.config._merge import filled, merge_files, section, with_defaults
from reconciler.config._parse import Document, parse, safe_lines
from reconciler.config._problems import Reporter
from reconciler.config._structure import check_structure, convert_options, in_yaml_words, misfits
from reconciler.config._tree import Entry, Place, Scalar, Sequence, Table, find, locate, plain, scalars, without
from reconciler.config._tree import Path as TreePath
from reconciler.config.source import FILE_NAME, Source, in_memory
from reconciler.core.changes import leaf_path
from reconciler.core.contracts import Backend, OptionProblem
from reconciler.core.errors import Rejected
from reconciler.core.spec import AuthSpec, BackendsSpec, Fleet, InstanceSpec, ServerSpec

OVERRIDES: Mapping[str, tuple[str, str]] = {
    "LLAMACTL_HOST": ("server", "host"),
    "LLAMACTL_PORT": ("server", "port"),
    "LLAMACTL_ORPHAN_TTL": ("server", "orphan_ttl"),
    "LLAMACTL_LLAMA_EXECUTABLE": ("backends", "llama_executable"),
    "LLAMACTL_MLX_LM_EXECUTABLE": ("backends", "mlx_lm_executable"),
    "LLAMACTL_VLLM_EXECUTABLE": ("backends", "vllm_executable"),
}
"""Variables that win over the file, by the setting they stand for. An empty variable counts as unset."""

_AnyModel = TypeVar("_AnyModel", bound=BaseModel)


def load(source: Source, *, backends: Mapping[str, Backend], environ: Mapping[str, str]) -> Fleet:
    """The fleet that a source declares; Rejected with every error at once. Doubtful things are in ``Fleet.warnings``.

    ``environ`` serves ``${VAR}``, keys given by ``env`` and the ``LLAMACTL_*`` overrides; nothing else is read from it.
    """
    reporter = Reporter()
    root = _document(source, reporter)
    root = Expander(environ=environ, reporter=reporter).table(root)
    reporter.secrets.learn(root)  # once more: a variable's default is a literal too
    root, faulty = check_structure(root, backends, reporter)
    return _Loading(root=root, faulty=faulty, backends=backends, environ=environ, reporter=reporter).fleet(source)


def load_programs(
    source: Source | None, *, backends: Mapping[str, Backend], environ: Mapping[str, str]
) -> BackendsSpec:
    """Which programs a source means (None: no file at all), whatever else is wrong with it; Rejected when that cannot be told."""
    if source is None:
        source = in_memory(Path(FILE_NAME), {FILE_NAME: b"backends: {}\n"})
    reporter = Reporter()
    whole = _document(source, reporter)
    wanted = Table({name: entry for name, entry in whole.entries.items() if name == "backends"}, whole.place)
    root, faulty = check_structure(Expander(environ=environ, reporter=reporter).table(wanted), backends, reporter)
    found = _Loading(root=root, faulty=faulty, backends=backends, environ=environ, reporter=reporter).programs()
    if reporter.errors:
        raise Rejected(*reporter.errors)
    return found


def load_text(
    data: bytes, *, name: str, backends: Mapping[str, Backend], environ: Mapping[str, str], root: Path | None = None
) -> Fleet:
    """:func:`load` for bytes that are not in a file (yet): a request's body, a file not written. ``name`` is shown in messages.

    Relative key files are looked up beside ``root``, the file that the text stands for (by default ``name``).
    """
    return load(in_memory(root or Path(name), {name: data}), backends=backends, environ=environ)


def _document(source: Source, reporter: Reporter) -> Table:
    """All files as one tree; Rejected when any of them cannot be read as YAML."""
    guard = Guard()
    documents: list[Document] = []
    lines: dict[str, tuple[str, ...]] = {}
    refusals: list[Rejected] = []
    for file in source.files:
        try:
            document = parse(file.data, name=file.name, guard=guard)
        except Rejected as refusal:
            refusals.append(refusal)
            lines[file.name] = safe_lines(file.data, file.name)
        else:
            documents.append(document)
            lines[file.name] = document.lines
    reporter.lines = lines
    reporter.unread = frozenset(lines) - {document.name for document in documents}
    for document in documents:
        reporter.secrets.learn(document.root)
    for document in documents:
        reporter.unreadable(document.problems)
    for failed in refusals:
        reporter.unreadable(failed.problems)
    if refusals:
        raise Rejected(*reporter.errors)
    return merge_files(tuple(document.root for document in documents), reporter)


class _Loading:
    """The second half of a load: from a checked shape to values."""

    def __init__(
        self,
        *,
        root: Table,
        faulty: Set[TreePath],
        backends: Mapping[str, Backend],
        environ: Mapping[str, str],
        reporter: Reporter,
    ) -> None:
        self.root = root
        self.faulty = faulty
        self.backends = backends
        self.environ = environ
        self.reporter = reporter
        self.defaults = filled(self._usable(("defaults",), section(root, "defaults")))

    def fleet(self, source: Source) -> Fleet:
        """Everything, or Rejected."""
        tables = {name: self._overridden(name, section(self.root, name)) for name in ("server", "backends")}
        written = section(self.root, "auth")
        usable, entries = self._keys(written)
        server = self._model(ServerSpec, ("server",), tables["server"])
        auth = self._model(AuthSpec, ("auth",), usable) or AuthSpec()
        programs = self._model(BackendsSpec, ("backends",), tables["backends"]) or BackendsSpec()
        names = {name: entry.key_place for name, entry in section(self.root, "instances").entries.items()}
        allow_hosts = frozenset(server.allow_backend_hosts) if server else frozenset()
        self._default_options(programs, allow_hosts)
        declared = [one for name in names if (one := self._instance(name, programs, allow_hosts)) is not None]
        FleetCheck(
            declared=declared,
            names=names,
            server=server or ServerSpec(),
            server_table=tables["server"],
            defaults=self.defaults,
            reporter=self.reporter,
        ).run()
        check_variables(tables["backends"], ("backends",), self.reporter)
        check_executables(programs, tables["backends"], self.reporter)
        check_key_instances(auth, written, entries.get("inference_keys", ()), names, self.reporter)
        base = source.root if source.root.is_dir() else source.root.parent
        keys = KeyReader(auth=written, base=base, environ=self.environ, reporter=self.reporter, entries=entries)
        management, inference = keys.management(auth), keys.inference(auth)
        if self.reporter.errors:
            raise Rejected(*self.reporter.errors)
        return Fleet(
            server=server or ServerSpec(),
            backends=programs,
            instances={one.name: one.spec for one in declared},
            management_keys=management,
            inference_keys=inference,
            warnings=self.reporter.warnings,
            content_hash=source.content_hash,
        )

    def programs(self) -> BackendsSpec:
        """The section ``backends`` alone."""
        table = self._overridden("backends", section(self.root, "backends"))
        found = self._model(BackendsSpec, ("backends",), table) or BackendsSpec()
        check_executables(found, table, self.reporter)
        return found

    def _usable(self, path: TreePath, table: Table) -> Table:
        """The table without the settings that were already reported."""
        depth = len(path)
        wrong = {str(bad[depth]) for bad in self.faulty if len(bad) > depth and bad[:depth] == path}
        return without(table, frozenset(wrong))

    def _keys(self, auth: Table) -> tuple[Table, Mapping[str, tuple[int, ...]]]:
        """``auth`` without the keys that were reported, and where each of the others stands: one key hides no other's trouble."""
        table = without(auth, frozenset(str(bad[1]) for bad in self.faulty if bad[0] == "auth" and len(bad) == 2))
        entries = dict(table.entries)
        kept: dict[str, tuple[int, ...]] = {}
        for name, entry in table.entries.items():
            if isinstance(entry.node, Sequence):
                wrong = {bad[2] for bad in self.faulty if bad[:2] == ("auth", name) and len(bad) > 2}
                kept[name] = tuple(index for index in range(len(entry.node.items)) if index not in wrong)
                items = tuple(entry.node.items[index] for index in kept[name])
                entries[name] = Entry(entry.key_place, Sequence(items, entry.node.place))
        return Table(entries, table.place), kept

    def _overridden(self, name: str, table: Table) -> Table:
        """A section with the variables that win over it."""
        table = self._usable((name,), table)
        entries = dict(table.entries)
        for variable, (where, setting) in OVERRIDES.items():
            text = self.environ.get(variable, "").strip()
            if where != name or not text:
                continue
            place = Place(f"${variable}", 0, 0)
            value: str | int = text
            if setting == "port":
                if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 65535:
                    message = f"{variable} must be a whole number from 1 to 65535"
                    self.reporter.error(place, message, path=(where, setting))
                    continue
                value = int(text)
            entries[setting] = Entry(place, Scalar(value, place, text))
        return Table(entries, table.place)

    def _model(self, model: type[_AnyModel], path: TreePath, table: Table) -> _AnyModel | None:
        """The model; what it refuses is reported and left out, None when even the rest is refused."""
        for _ in range(2):
            try:
                return model.model_validate(plain(table))
            except ValidationError as error:
                wrong: set[str] = set()
                for detail in error.errors(include_url=False, include_input=False):
                    at = _existing(table, detail["loc"])
                    cause = detail.get("ctx", {}).get("error")
                    text = str(cause) if cause is not None else detail["msg"].replace("Input should be", "expected")
                    self.reporter.error(locate(table, at), text, path=(*path, *at))
                    wrong.update(str(step) for step in detail["loc"][:1])
                table = without(table, frozenset(wrong))
        return None

    def _instance(self, name: str, programs: BackendsSpec, allow_hosts: frozenset[str]) -> Declared | None:
        """One instance, merged and checked; None when it is not even that."""
        path: TreePath = ("instances", name)
        entry = section(self.root, "instances").entries[name]
        if path in self.faulty:
            return None
        written = entry.node if isinstance(entry.node, Table) else Table({}, entry.node.place)
        own = filled(self._usable(path, written))
        merged = with_defaults(own, self.defaults)
        kind = find(merged, ("backend_type",))
        if not isinstance(kind, Scalar) or str(kind.value) not in self.backends:
            if self.reporter.cannot_be_had(entry.node.place):
                return None
            if not any((*start, "backend_type") in self.faulty for start in (path, ("defaults",))):
                hint = "one of " + ", ".join(sorted(self.backends))
                self.reporter.error(entry.key_place, f"`{name}` has no backend_type", path=path, hint=hint)
            return None
        backend = self.backends[str(kind.value)]
        options = merged.entries.get("backend_options")
        if options is not None and any(scalar.variables for _, scalar in scalars(options.node)):
            converted = Entry(options.key_place, convert_options(options.node, backend))
            merged = Table({**merged.entries, "backend_options": converted}, merged.place)
        spec = self._model(InstanceSpec, path, merged)
        if spec is None:
            return None
        spec = spec.marked(leaf_path(at) for at, scalar in scalars(merged) if scalar.variables)
        one = Declared(name=name, key_place=entry.key_place, own=own, merged=merged, spec=spec)
        if not any(
            bad[:3] == (*path, "backend_options") or bad[:2] == ("defaults", "backend_options") for bad in self.faulty
        ):
            for problem in backend.check(spec, backends=programs, allow_hosts=allow_hosts):
                self._option_problem(one, problem)
        return one

    def _default_options(self, programs: BackendsSpec, allow_hosts: frozenset[str]) -> None:
        """Options that no instance could take from ``defaults`` are wrong there, whether or not an instance takes them."""
        kind, options = find(self.defaults, ("backend_type",)), find(self.defaults, ("backend_options",))
        if not isinstance(kind, Scalar) or str(kind.value) not in self.backends or not isinstance(options, Table):
            return
        backend = self.backends[str(kind.value)]
        converted = convert_options(options, backend)
        assert isinstance(converted, Table)
        wrong = misfits(converted, backend, programs)
        if not wrong:
            return
        written = {key: plain(entry.node) for key, entry in converted.entries.items() if key in wrong}
        spec = InstanceSpec(backend_type=backend.kind, backend_options=written)
        one = Declared(
            name="defaults", key_place=self.defaults.place, own=self.defaults, merged=self.defaults, spec=spec
        )
        for problem in backend.check(spec, backends=programs, allow_hosts=allow_hosts):
            if not problem.warning and problem.path[1:2] and problem.path[1] in wrong:
                self._option_problem(one, problem)

    def _option_problem(self, one: Declared, problem: OptionProblem) -> None:
        """A backend's finding, at its place: in the instance, or in ``defaults`` when that is where the value comes from."""
        whole = Table({one.name: Entry(one.key_place, one.merged)}, one.key_place)
        key = locate(whole, (one.name, *problem.path), on_key=True)
        node = find(one.merged, problem.path)
        beside = node is not None and (isinstance(node, Scalar) or node.place[:2] == key[:2])  # no list below its key
        on_key = problem.on_key or not beside
        place = key if on_key else locate(whole, (one.name, *problem.path))
        in_defaults = find(self.defaults, problem.path) is not None and bool(problem.path)
        if in_defaults and locate(self.defaults, problem.path, on_key=on_key) == place:
            path: TreePath = ("defaults", *problem.path)
        else:
            path = one.path(problem.path)
        say: Callable[..., None] = self.reporter.warning if problem.warning else self.reporter.error
        message, hint = in_yaml_words(problem.message, problem.hint, find(one.merged, problem.path))
        say(place, message, path=path, hint=hint)


def _existing(table: Table, location: tuple[str | int, ...]) -> TreePath:
    """The part of a validator's location that is in the document: unions add names of their own."""
    path: TreePath = ()
    for step in location:
        if find(table, (*path, step)) is None:
            break
        path = (*path, step)
    return path or location[:1]


def same_meaning(one: Fleet, other: Fleet) -> bool:
    """Whether two fleets differ in nothing but their bytes and the places of their warnings."""
    return changed(one, content_hash="", warnings=()) == changed(other, content_hash="", warnings=())
