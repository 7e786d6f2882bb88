"""Turns one value of a text into another, touching only what differs: key by key, item by item, through anchors, aliases and merges.

It plans on a :class:`Splicer`, from the layout of the text and its meaning side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from pydantic import JsonValue

from reconciler.config import _tree
from reconciler.config._layout import Entry, Kind, Node
from reconciler.config._splice import Splicer, Unsupported

Values = Mapping[str, JsonValue]


class Shared(Exception):  # no failure: the caller hands the text over and begins again
    """A value that is to be changed has an anchor, and ``node``'s aliases elsewhere mean it."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node


def same(one: JsonValue, other: JsonValue) -> bool:
    """Whether two values mean the same: ``1``, ``1.0`` and ``true`` do not; the order of keys does not count."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


class Changer:
    """Plans one change of one text."""

    def __init__(self, splicer: Splicer) -> None:
        self._splicer = splicer
        self._uses = splicer.layout.uses

    # ---- what must not be touched because others mean it --------------------------------------------------------

    def _open(self, node: Node) -> None:
        """This collection is changed inside."""
        if self._uses.get(id(node)):
            raise Shared(node)

    def _goes(self, entry: Entry) -> None:
        """This entry is taken out or replaced."""
        inside = [node for part in (entry.key, entry.value) if part is not None for node in part.walk()]
        here = {id(node) for node in inside}
        for node in inside:
            if any(id(use) not in here for use in self._uses.get(id(node), ())):
                raise Shared(node)

    # ---- changing -----------------------------------------------------------------------------------------------

    def put(self, container: Node, entry: Entry, new: JsonValue) -> None:
        """Another value in the place of the old one, whatever that was."""
        self._goes(entry)
        value = entry.value
        if value.in_block and value.entries and new in ({}, []) and (new == {}) == (value.kind is Kind.MAPPING):
            self._splicer.clear(entry, container)
            return
        if value.flow and not value.entries and isinstance(new, dict) and new:
            inside = self._splicer.text[value.body + 1 : value.end - 1]
            if inside.strip() and value.kind is Kind.MAPPING:  # a comment between the brackets
                self._splicer.fill(value, new)
                return
        self._splicer.replace(entry, new, container)

    def add(self, container: Node, new: Values, *, first: bool = False) -> None:
        """New pairs for a mapping."""
        self._open(container)
        if not container.entries:
            self._splicer.fill(container, new)
        elif new:
            self._splicer.add(container, new, first=first)

    def remove(self, container: Node, gone: Sequence[Entry]) -> None:
        """Entries out of a collection that keeps others."""
        self._open(container)
        for entry in gone:
            self._goes(entry)
        self._splicer.remove(container, gone)

    def value(self, container: Node, entry: Entry, old: _tree.Node, new: JsonValue) -> None:
        """The entry's value becomes ``new``."""
        before, node = _tree.plain(old), entry.value
        if same(before, new):
            return
        self._open(container)
        if isinstance(new, dict) and isinstance(before, dict) and new and before:
            if node.kind is Kind.ALIAS and before.keys() <= new.keys():
                self._extend(container, entry, before, new)
                return
            if node.kind is Kind.MAPPING and node.entries and isinstance(old, _tree.Table):
                self._mapping(container, entry, old, new)
                return
        if (
            isinstance(new, list)
            and isinstance(old, _tree.Sequence)
            and node.kind is Kind.SEQUENCE
            and new
            and node.entries
            and self._sequence(node, old, new)
        ):
            return
        self.put(container, entry, new)

    def _extend(self, container: Node, entry: Entry, before: Values, new: Values) -> None:
        """``*alias`` becomes a mapping of its own that merges the alias and says what is different."""
        alias = self._splicer.text[entry.value.start : entry.value.end]
        differing = {key: item for key, item in new.items() if key not in before or not same(before[key], item)}
        if container.flow or entry.key is None:
            inner = self._splicer.like(container, differing).removeprefix("{")
            self._splicer.cut(entry.value.start, entry.value.end, f"{{<<: {alias}, {inner}")
            return
        lines = self._splicer.rendered(differing, container)
        self._splicer.put_below(entry, [f"<<: {alias}", *lines], container)

    def _mapping(self, container: Node, entry: Entry, old: _tree.Table, new: Values) -> None:
        node = entry.value
        before = {key: _tree.plain(each.node) for key, each in old.entries.items()}
        own = {each.name: each for each in node.entries if each.name is not None}
        merge = own.pop("<<", None) if "<<" not in before else None
        inherited = before.keys() - own.keys()
        gone = [own[key] for key in own if key not in new]
        if merge is not None and _brought(merge.value) - new.keys():  # a merge brings all or nothing
            gone.append(merge)
            inherited = set()
        kept = len(node.entries) - len(gone)
        if not kept:
            self.put(container, entry, dict(new))
            return
        if gone:
            self.remove(node, gone)
        added: dict[str, JsonValue] = {}
        for key, item in new.items():
            if key in own:
                self.value(node, own[key], old.entries[key].node, item)
            elif key not in inherited or not same(before[key], item):
                added[key] = item
        if "enabled" in added:
            self.add(node, {"enabled": added.pop("enabled")}, first=True)
        if added:
            self.add(node, added)

    def _sequence(self, node: Node, old: _tree.Sequence, new: Sequence[JsonValue]) -> bool:
        """Item by item; False, with nothing planned, when no item stays where it is."""
        keys = [json.dumps(_tree.plain(item), sort_keys=True) for item in old.items]
        wanted = [json.dumps(item, sort_keys=True) for item in new]
        steps = SequenceMatcher(a=keys, b=wanted, autojunk=False).get_opcodes()
        if all(tag != "equal" for tag, *_ in steps) and len(keys) > len(wanted):
            return False
        self._open(node)
        gone: list[Entry] = []
        for tag, start, end, first, last in steps:
            if tag == "equal":
                continue
            common = min(end - start, last - first)
            for offset in range(common):
                at = start + offset
                self.value(node, node.entries[at], old.items[at], new[first + offset])
            gone += node.entries[start + common : end]
            if first + common < last:
                self._splicer.add_items(node, start + common, new[first + common : last])
        if gone:
            self.remove(node, gone)
        return True


def hand_over(splicer: Splicer, node: Node, tree: _tree.Node, *, as_written: bool) -> None:
    """Move an anchor from its value to the first alias that means it: that one gets a copy, the value stands alone then.

    ``as_written`` copies the text, with what it merges; else the meaning, which fits anywhere. Unsupported where the text does not fit.
    """
    use = splicer.layout.uses[id(node)][0]
    root = splicer.layout.root
    assert root is not None  # it has a node
    meaning = _find(root, tree, node)
    place = _entry_of(root, use)
    owner = _entry_of(root, node)
    if meaning is None or place is None or owner is None:
        raise Unsupported("an anchor at a key", node.start)
    container, entry = place
    value = _tree.plain(meaning)
    if as_written:
        _copy(splicer, node, container, entry)
    elif isinstance(value, dict) and value and not container.flow and entry.key is not None:
        splicer.put_below(entry, splicer.rendered(value, container), container)
        splicer.put(entry.mark, f" &{node.anchor}")
    else:
        splicer.cut(use.start, use.end, f"&{node.anchor} {splicer.like(container, value)}")
    anchor_end = splicer.layout.anchor_end(node)
    on_line = splicer.lines.start(node.body) == splicer.lines.start(node.start)
    if node.empty:
        splicer.cut(owner[1].mark, anchor_end)
    elif on_line:
        splicer.cut(node.start, node.body)
    else:
        splicer.cut(owner[1].mark, anchor_end)


def _copy(splicer: Splicer, node: Node, container: Node, entry: Entry) -> None:
    """The text of an anchored collection, its anchor with it, in the place of an alias; comments inside are copied too."""
    if node.flow:
        text = "".join(_without_anchors(splicer, node, node.body, node.end))
        splicer.cut(entry.value.start, entry.value.end, f"&{node.anchor} {text}")
        return
    if not node.in_block or not node.entries or container.flow or entry.key is None:
        raise Unsupported("its text does not fit at its alias", entry.value.start)
    first = node.entries[0].start
    start = splicer.lines.start(first)
    if splicer.lines.prefix(first).strip(" "):  # behind a dash
        raise Unsupported("its text does not fit at its alias", entry.value.start)
    text = "".join(_without_anchors(splicer, node, start, splicer.lines.end(node.end)))
    column = splicer.column(node)
    lines = [line.rstrip("\r\n") for line in text.splitlines(keepends=True)]
    if any(line.strip() and line[:column].strip(" ") for line in lines):
        raise Unsupported("its lines do not fit at its alias", entry.value.start)
    splicer.put_below(entry, [line[column:] for line in lines], container)
    splicer.put(entry.mark, f" &{node.anchor}")


def _without_anchors(splicer: Splicer, node: Node, start: int, end: int) -> Iterator[str]:
    """Pieces of a text that hold a node, without the anchors below it: these stay where they are."""
    for inner in node.walk():
        if inner is not node and inner.anchor is not None:
            behind = splicer.layout.anchor_end(inner)
            line = splicer.text[behind : splicer.lines.end(behind)]
            blanks = len(line) - len(line.lstrip(" "))
            before = splicer.text[start : inner.start]
            yield before if line.strip(" ") else before.rstrip(" ")
            start = behind + blanks
    yield splicer.text[start:end]


def _brought(merged: Node) -> set[str]:
    """The keys that a merge's value brings, those that are overruled included."""
    node = merged.target or merged
    keys: set[str] = set()
    for entry in node.entries:
        if entry.name is None or entry.name == "<<":
            keys |= _brought(entry.value)
        else:
            keys.add(entry.name)
    return keys


def _entry_of(node: Node, wanted: Node) -> tuple[Node, Entry] | None:
    """The entry whose value a node is, and its collection."""
    for container in node.walk():
        for entry in container.entries:
            if entry.value is wanted:
                return container, entry
    return None


def _find(node: Node, tree: _tree.Node, wanted: Node) -> _tree.Node | None:
    """The meaning of a node below another one."""
    if node is wanted:
        return tree
    for index, entry in enumerate(node.entries):
        if entry.key is None:
            below = tree.items[index] if isinstance(tree, _tree.Sequence) else None
        elif entry.name == "<<":
            below = None
        else:
            below = _tree.child(tree, entry.name or "")
        if below is not None and (found := _find(entry.value, below, wanted)) is not None:
            return found
    return None
