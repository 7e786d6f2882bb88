"""Joins what belongs together: the files of a folder into one document, and ``defaults`` under each instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_origin

from pydantic import BaseModel

from reconciler.config._problems import Reporter
from reconciler.config._tree import Entry, Scalar, Table
from reconciler.core.spec import InstanceSpec


def _takes_a_table(annotation: object) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)


TABLE_SETTINGS = frozenset(
    name for name, field in InstanceSpec.model_fields.items() if _takes_a_table(field.annotation)
)
"""Instance settings that are mappings: merged key by key, and empty when their value is left out."""


def merge_files(roots: tuple[Table, ...], reporter: Reporter) -> Table:
    """One document out of a folder's: instances are joined, any other section may stand in one file only."""
    if len(roots) == 1:
        return roots[0]
    entries: dict[str, Entry] = {}
    instances: dict[str, Entry] = {}
    for root in roots:
        for key, entry in root.entries.items():
            first = entries.get(key)
            if key == "instances" and isinstance(entry.node, Table):
                _join(instances, entry.node, reporter)
                entries[key] = Entry((first or entry).key_place, Table(instances, (first or entry).node.place))
            elif first is None:
                entries[key] = entry
            elif key != "instances" and not key.startswith("x-"):
                message = f"`{key}` stands in two files"
                hint = f"the first one is {first.key_place.file}:{first.key_place.line}; keep one"
                reporter.error(entry.key_place, message, path=(key,), hint=hint, also=(first.key_place,))
    return Table(entries, roots[0].place)


def _join(instances: dict[str, Entry], more: Table, reporter: Reporter) -> None:
    for name, entry in more.entries.items():
        first = instances.setdefault(name, entry)
        if first is not entry and not name.startswith("x-"):
            message = f"the instance `{name}` is declared twice"
            hint = f"the first one is {first.key_place.file}:{first.key_place.line}; keep one"
            reporter.error(entry.key_place, message, path=("instances", name), hint=hint, also=(first.key_place,))


def section(root: Table, name: str) -> Table:
    """A section of the document; empty when it is missing or has no value."""
    entry = root.entries.get(name)
    if entry is not None and isinstance(entry.node, Table):
        return entry.node
    return Table({}, entry.node.place if entry is not None else root.place)


def filled(table: Table) -> Table:
    """An instance (or defaults) whose mapping settings without a value are empty mappings."""
    return Table(
        {
            key: Entry(entry.key_place, Table({}, entry.node.place))
            if key in TABLE_SETTINGS and isinstance(entry.node, Scalar) and entry.node.value is None
            else entry
            for key, entry in table.entries.items()
        },
        table.place,
    )


def with_defaults(instance: Table, defaults: Table) -> Table:
    """The instance over ``defaults``: mappings are merged key by key, anything else is replaced as a whole."""
    entries = dict(defaults.entries)
    for key, entry in instance.entries.items():
        below = entries.get(key)
        if below is not None and isinstance(below.node, Table) and isinstance(entry.node, Table):
            merged = _options(below.node, entry.node) if key == "backend_options" else below.node.entries
            node = Table({**merged, **entry.node.entries}, entry.node.place)
            entries[key] = Entry(entry.key_place, node)
        else:
            entries[key] = entry
    return Table(entries, instance.place)


def _options(defaults: Table, own: Table) -> Mapping[str, Entry]:
    """Default options that the instance does not give itself in either spelling."""
    given = {key.replace("-", "_") for key in own.entries}
    return {key: entry for key, entry in defaults.entries.items() if key.replace("-", "_") not in given}
