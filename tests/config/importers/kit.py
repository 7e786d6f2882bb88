"""What the tests of every importer need: an import with the real backends and the real loader, and the losses by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler import app
from reconciler.config import load
from reconciler.config._tree import Node, Path, Sequence, Table, words
from reconciler.config.importers.contract import Lost
from reconciler.core.spec import Fleet, InstanceSpec

SECRET = "sk-do-not-show-9f8e7d6c5b4a"


@dataclass(frozen=True, slots=True)
class Import:
    """One import, loaded again from its own text."""

    text: str
    lost: tuple[Lost, ...]
    fleet: Fleet

    def __getitem__(self, name: str) -> InstanceSpec:
        return self.fleet.instances[name]

    def loss(self, what: str) -> Lost:
        """The one loss of that name."""
        found = [one for one in self.lost if one.what == what]
        assert len(found) == 1, f"{what}: {len(found)} of {[one.what for one in self.lost]}"
        return found[0]

    def whats(self) -> set[str]:
        """Everything that was reported, by name."""
        return {one.what for one in self.lost}

    def said(self) -> str:
        """Every word of the losses."""
        return "\n".join(f"{one.what} {one.why} {one.cure}" for one in self.lost)


def bring(kind: str, text: str | bytes, environ: Mapping[str, str] | None = None, name: str = "there.cfg") -> Import:
    """Import a text; the printed YAML is loaded as ``validate`` would."""
    data = text.encode() if isinstance(text, str) else text
    variables = dict(environ or {})
    written = app.import_instances(kind, {name: data}, variables)
    unset = {name: str(at) for at, name in enumerate(written.unset, 1)}  # keys must differ
    fleet = load.load_text(
        written.text.encode(), name="printed", backends=app._backends(), environ={**unset, **variables}
    )
    return Import(written.text, written.lost, fleet)


def tables(node: Node, path: Path = ()) -> Iterator[tuple[Path, Table]]:
    """Every mapping of a tree."""
    match node:
        case Table():
            yield path, node
            for key, entry in node.entries.items():
                yield from tables(entry.node, (*path, key))
        case Sequence():
            for index, item in enumerate(node.items):
                yield from tables(item, (*path, index))
        case _:
            return


def with_key(data: Any, path: Path, key: str) -> Any:
    """A copy of plain data with one more key in the mapping at a path."""
    if not path:
        return {**data, key: "surprise"}
    step, rest = path[0], path[1:]
    if isinstance(data, list):
        assert isinstance(step, int)
        return [with_key(item, rest, key) if at == step else item for at, item in enumerate(data)]
    return {name: with_key(item, rest, key) if name == step else item for name, item in data.items()}


def accounts_for(found: Import, path: Path, key: str) -> bool:
    """Whether an unknown key was reported: by its own name, or with something above it."""
    wanted = {words((*path, key))} | {words(path[:length]) for length in range(1, len(path) + 1)}
    return bool(wanted & found.whats())
