"""A YAML document as a tree of values that remember where they were written. Immutable, without any YAML library in sight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import JsonValue


class Place(NamedTuple):
    """A position in a file; line and column count from 1, columns in characters."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text, number, boolean or null."""

    value: str | int | float | bool | None
    place: Place
    raw: str = ""
    """As written: ``1.10`` for 1.1."""
    variables: tuple[str, ...] = ()
    """Names of the environment variables that were expanded into it; such a value is never shown."""
    end: tuple[int, int] = (0, 0)
    """Line and column behind its last character; zeros when it is in no file."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a table, with the key's own place."""

    key_place: Place
    node: Node


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping with text keys, in the file's order."""

    entries: Mapping[str, Entry]
    place: Place


Node = Scalar | Sequence | Table
Path = tuple[str | int, ...]


def plain(node: Node) -> JsonValue:
    """The bare data, for validators."""
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [plain(item) for item in node.items]
        case Table():
            return {key: plain(entry.node) for key, entry in node.entries.items()}


def child(node: Node, step: str | int) -> Node | None:
    """One step down, or None."""
    if isinstance(node, Table) and isinstance(step, str):
        entry = node.entries.get(step)
        return None if entry is None else entry.node
    if isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None


def find(node: Node, path: Path) -> Node | None:
    """The node at a path, or None."""
    current: Node | None = node
    for step in path:
        if current is None:
            return None
        current = child(current, step)
    return current


def locate(node: Node, path: Path, *, on_key: bool = False) -> Place:
    """Where the value at ``path`` stands (or its key), or else the nearest thing above it that is in the file."""
    place, current = node.place, node
    for index, step in enumerate(path):
        following = child(current, step)
        if following is None:
            return place
        is_last = index == len(path) - 1
        on_entry = isinstance(current, Table) and isinstance(step, str)
        if on_entry and isinstance(current, Table) and (on_key or not is_last):
            place = current.entries[str(step)].key_place
        else:
            place = following.place
        current = following
    return place


def replace(node: Node, path: Path, new: Node) -> Node:
    """The tree with another node at an existing path."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    if isinstance(node, Table) and isinstance(step, str):
        old = node.entries[step]
        entries = {**node.entries, step: Entry(old.key_place, replace(old.node, rest, new))}
        return Table(entries, node.place)
    if isinstance(node, Sequence) and isinstance(step, int):
        items = list(node.items)
        items[step] = replace(items[step], rest, new)
        return Sequence(tuple(items), node.place)
    raise LookupError(path)


def without(node: Table, keys: frozenset[str]) -> Table:
    """The table less some keys."""
    return Table({key: entry for key, entry in node.entries.items() if key not in keys}, node.place)


def scalars(node: Node, path: Path = ()) -> Iterator[tuple[Path, Scalar]]:
    """Every scalar below a node, with its path."""
    match node:
        case Scalar():
            yield path, node
        case Sequence():
            for index, item in enumerate(node.items):
                yield from scalars(item, (*path, index))
        case Table():
            for key, entry in node.entries.items():
                yield from scalars(entry.node, (*path, key))


def words(path: Path) -> str:
    """``instances.tiny.aliases[0]``, for people."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
