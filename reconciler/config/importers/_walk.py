"""A mapping of another tool's file that is read key by key, and knows at its end which keys nobody asked for.

An importer takes what it understands; everything else is reported by :meth:`Section.rest`, so a key can be forgotten by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from reconciler.config._parse import EMPTY_MESSAGE, parse
from reconciler.config._tree import Node, Scalar, Sequence, Table, scalars
from reconciler.config.importers.contract import Lost
from reconciler.core.errors import Rejected

_NULLS = ("", "~", "null", "Null", "NULL")
UNKNOWN = "llamactl import does not know this setting"


@dataclass(slots=True)
class Section:
    """One mapping; ``where`` is its path as the other file would write it, empty for the whole file."""

    table: Table
    where: str
    lost: list[Lost]
    """Shared by all sections of one import."""
    taken: set[str] = field(default_factory=set)
    begins: int | None = None
    """The line of the key that holds it, where there is one."""

    def path(self, key: str) -> str:
        """``models.qwen.ttl``."""
        return f"{self.where}.{key}" if self.where else key

    def line(self, key: str | None = None) -> int:
        """The line of a key, or of the section."""
        entry = self.table.entries.get(key) if key is not None else None
        if entry is not None:
            return entry.key_place.line
        return self.begins if self.begins is not None else self.table.place.line

    def lose(self, key: str, why: str, cure: str | None = None) -> None:
        """Report a key."""
        self.taken.add(key)
        self.lost.append(Lost(what=self.path(key), why=why, cure=cure, line=self.line(key)))

    def node(self, key: str) -> Node | None:
        """A value, taken; None when it is absent or null."""
        self.taken.add(key)
        entry = self.table.entries.get(key)
        return None if entry is None or is_null(entry.node) else entry.node

    def text(self, key: str) -> str | None:
        """A scalar as text (``8080`` too), taken; anything else is reported and None."""
        node = self.node(key)
        if node is None:
            return None
        found = scalar_text(node)
        if found is None:
            self.lose(key, "a text was expected here")
        return found

    def integer(self, key: str) -> int | None:
        """A whole number, taken; anything else is reported and None."""
        node = self.node(key)
        if node is None:
            return None
        if isinstance(node, Scalar) and isinstance(node.value, int) and not isinstance(node.value, bool):
            return node.value
        self.lose(key, "a whole number was expected here")
        return None

    def section(self, key: str) -> Section | None:
        """A mapping below, taken; anything else is reported and None."""
        node = self.node(key)
        if node is None:
            return None
        if isinstance(node, Table):
            return Section(node, self.path(key), self.lost, begins=self.line(key))
        self.lose(key, "a mapping was expected here")
        return None

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Every mapping below, by its key; what is none is reported."""
        for key in self.table.entries:
            found = self.section(key)
            if found is not None:
                yield key, found
            elif is_null(self.table.entries[key].node):
                self.lose(key, "there is nothing in it")

    def items(self, key: str) -> tuple[Node, ...]:
        """The items of a list, taken; anything else is reported and empty."""
        node = self.node(key)
        if node is None:
            return ()
        if isinstance(node, Sequence):
            return node.items
        self.lose(key, "a list was expected here")
        return ()

    def rest(self, known: Mapping[str, tuple[str, str | None]]) -> None:
        """Report every key that was not taken: by its own reason where there is one."""
        for key in self.table.entries:
            if key not in self.taken:
                self.lose(key, *known.get(key, (UNKNOWN, None)))


def is_null(node: Node) -> bool:
    """Null, as opposed to a scalar that our files cannot hold (a date, a very long number), which other tools take as text."""
    return isinstance(node, Scalar) and node.value is None and node.raw in _NULLS


def scalar_text(node: Node) -> str | None:
    """A scalar as the text that was written (``true``, ``0.70``); None for null and everything that is no scalar."""
    if not isinstance(node, Scalar) or is_null(node):
        return None
    return node.value if isinstance(node.value, str) else node.raw


def read_table(data: bytes, name: str, *, wanted: str | None = None) -> tuple[Table, list[Lost]]:
    """A YAML or JSON file by the strict reader; Rejected for what cannot be read, duplicate keys included.

    ``wanted`` says what such a file has, for one that is empty.
    Tags and keys that are no text are lost; scalars that only our own files cannot hold are not: their text is there.
    """
    try:
        document = parse(data, name=name)
    except Rejected as refusal:  # its advice on an empty file is about our own files
        problems = [
            replace(problem, message="there is nothing in this file", hint=wanted)
            if problem.message == EMPTY_MESSAGE
            else problem
            for problem in refusal.problems
        ]
        raise Rejected(*problems) from None
    doubled = [problem for problem in document.problems if problem.also]
    if doubled:
        raise Rejected(*doubled)
    readable = {
        (scalar.place.line, scalar.place.column)
        for _, scalar in scalars(document.root)
        if scalar.value is None and scalar.raw.isprintable()
    }
    lost = [
        Lost(what="a value", why=problem.message, cure=problem.hint, line=problem.line, column=problem.column)
        for problem in document.problems
        if (problem.line, problem.column) not in readable or "tag" in problem.message
    ]
    return document.root, lost
