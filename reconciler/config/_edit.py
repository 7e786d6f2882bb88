"""Changes to the user's file, text in and text out: one instance set, removed, switched on or off; every other byte stays.

Every edit is proved before it is returned: the new text is read by the strict reader and must mean exactly the old document with that
one change. What cannot be done so is refused, with the place; nothing is ever loaded and dumped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from reconciler.config import _layout, _tree
from reconciler.config._change import Changer, Shared, hand_over, same
from reconciler.config._guard import MAX_ALIASES
from reconciler.config._layout import Kind, Layout, Lines
from reconciler.config._parse import parse, split_lines
from reconciler.config._render import block
from reconciler.config._snippet import lines
from reconciler.config._splice import Splicer, Unsupported
from reconciler.core.errors import Missing, Problem, Rejected
from reconciler.core.spec import NOTE_PREFIX

_NAME = "the file"
Document = dict[str, JsonValue]
_MARK = "\ufeff"
_ROW_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
_SWITCH = re.compile(r"enabled: (?:true|false)")
"""As :func:`set_enabled` writes it, without a comment."""


def declares(text: str, name: str) -> bool:
    """Whether this text declares the instance; Rejected when it is not valid YAML."""
    return name in _instances(_meaning(_read(text)))


def set_instance(text: str, name: str, body: Mapping[str, JsonValue]) -> str:
    """The text with the instance declared as ``body``: added after the others, or changed key by key where it stands.

    ``x-*`` keys of the instance and of the mappings in it stay. Rejected when the text, or what became of it, is not valid.
    """
    tree = _read(text)
    old = _instances(_meaning(tree)).get(name)
    return _edited(text, tree, {name: _with_notes(old, body)})


def add_instances(text: str, new: Mapping[str, Mapping[str, JsonValue]]) -> str:
    """The text with these instances, none of which it has yet, after the others; as many calls of :func:`set_instance`, in one pass."""
    tree = _read(text)
    known = _instances(_meaning(tree))
    if any(name in known for name in new):
        raise ValueError("an instance that is to be added is there already")
    return _edited(text, tree, {name: dict(body) for name, body in new.items()})


def remove_instance(text: str, name: str) -> str:
    """The text without the instance and its comments; Missing when it is not there."""
    tree = _read(text)
    if name not in _instances(_meaning(tree)):
        raise Missing(f"no instance is called {name!r} in this file")
    return _edited(text, tree, {name: None})


def set_enabled(text: str, name: str, enabled: bool) -> str:
    """The text with the instance's ``enabled`` set; unchanged when it says so already. Missing when it is not there.

    Where the other value was put in by this, and this one goes without saying, that is taken out again: the old bytes are back.
    """
    tree = _read(text)
    document = _meaning(tree)
    instances = _instances(document)
    if name not in instances:
        raise Missing(f"no instance is called {name!r} in this file")
    old = instances[name]
    if old is not None and not isinstance(old, dict):
        raise _refused(f"the instance {name!r} is not a mapping", _place(text, tree, name))
    defaults = document.get("defaults")
    below = defaults.get("enabled", True) if isinstance(defaults, dict) else True
    if (old or {}).get("enabled", below) is enabled:
        return text
    if below is enabled and (undone := _undone(text, tree, name)) is not None:
        return undone
    return _edited(text, tree, {name: {**(old or {}), "enabled": enabled}})


def _undone(text: str, tree: _tree.Table, name: str) -> str | None:
    """The text without the instance's ``enabled: …``, if it is where :func:`set_enabled` puts it, and nothing else goes by it."""
    mark = _MARK if text.startswith(_MARK) else ""
    bare = text.removeprefix(mark)
    own = _tree.locate(tree, ("instances", name, "enabled"), on_key=True)
    above = _tree.locate(tree, ("instances", name), on_key=True)
    if not own.line or own.line - above.line not in (0, 1):
        return None
    rows = _ROW_END.split(bare)
    row = rows[own.line - 1]
    start, rest = row[: own.column - 1], row[own.column - 1 :]
    if not start.strip(" ") and _SWITCH.fullmatch(rest.rstrip("\r\n")):
        rows[own.line - 1] = ""
    elif start.endswith("{") and (found := _SWITCH.match(rest)) and rest.startswith(", ", found.end()):
        rows[own.line - 1] = start + rest[found.end() + 2 :]
    else:
        return None
    document = _meaning(tree)
    body = _instances(document)[name]
    assert isinstance(body, dict)
    expected = {key: value for key, value in body.items() if key != "enabled"}
    result = "".join(rows)
    try:
        done = same(_meaning(_read(result)), {**document, "instances": {**_instances(document), name: expected}})
    except Rejected:
        return None
    return mark + result if done else None


def snippet(name: str, body: Mapping[str, JsonValue]) -> str:
    """One instance as YAML, ready to be put into a file."""
    return "\n".join(lines({"instances": {name: dict(body)}})) + "\n"


def _with_notes(old: JsonValue, new: Mapping[str, JsonValue]) -> Document:
    """The new mapping, and what the user noted for themselves in the old one."""
    if not isinstance(old, dict):
        return dict(new)
    kept = {key: value for key, value in old.items() if key.startswith("x-") and key not in new}
    merged = {
        key: _with_notes(old.get(key), value) if isinstance(value, dict) and not key.startswith("x-") else value
        for key, value in new.items()
    }
    return {**kept, **merged}


def _refused(why: str, place: Problem | None = None) -> Rejected:
    return Rejected(
        Problem(
            message=f"cannot edit the file: {why}",
            hint="edit it by hand",
            code="CONFIG_NOT_EDITABLE",
            line=place.line if place else None,
            column=place.column if place else None,
            source=place.source if place else None,
        )
    )


def _spot(text: str, line: int, column: int) -> Problem:
    lines = split_lines(text)
    return Problem(message="", line=line, column=column, source=lines[line - 1] if line <= len(lines) else None)


def _place(text: str, tree: _tree.Node, name: str) -> Problem | None:
    """Where the instance is named."""
    place = _tree.locate(tree, ("instances", name), on_key=True)
    return _spot(text.removeprefix(_MARK), place.line, place.column) if place.line else None


def _read(text: str) -> _tree.Table:
    """The tree of a text, ``x-*`` keys and ``${VAR}`` as written; a text without a document is an empty one."""
    try:
        document = parse(text.encode(errors="surrogateescape"), name=_NAME)
    except Rejected as refusal:
        if all(problem.code == "CONFIG_EMPTY" for problem in refusal.problems):
            return _tree.Table({}, _tree.Place(_NAME, 0, 0))
        raise
    if document.problems:
        raise Rejected(*document.problems)
    instances = _tree.child(document.root, "instances")
    if instances is not None and not isinstance(instances, _tree.Table) and _tree.plain(instances) is not None:
        raise _refused("`instances` is not a mapping", _spot(text, *instances.place[1:]))
    return document.root


def _meaning(tree: _tree.Table) -> Document:
    data = _tree.plain(tree)
    assert isinstance(data, dict)
    return data


def _instances(document: Document) -> Document:
    instances = document.get("instances")
    return instances if isinstance(instances, dict) else {}


Changes = Mapping[str, Document | None]
"""By name, what an instance becomes (None: removed): one instance, or several that are all new."""


def _edited(text: str, tree: _tree.Table, changes: Changes) -> str:
    """The text whose meaning is the document with these changes and no others."""
    document = _meaning(tree)
    wanted = _changed(_instances(document), changes)
    expected: Document = {**document, "instances": wanted}
    if same(document, expected):
        return text
    mark = _MARK if text.startswith(_MARK) else ""
    bare = text.removeprefix(mark)
    if not changes:
        return text
    name = next(iter(changes))
    for new in changes:
        if new.startswith(NOTE_PREFIX) and changes[new] is not None:
            raise Rejected(_note_name(new))
    refused = _refused(f"the instance {name!r} is written in a way that cannot be changed", _place(text, tree, name))
    try:
        result = _spliced(bare, tree, lambda changer, layout, root: _plan(changer, layout, root, changes))
        # text of whole lines that has come to stand last needs its line end
        for text_now in (result, _ended(result)):
            if same(_meaning(_read(text_now)), expected):
                return mark + text_now
    except Unsupported as why:
        if why.at is not None:
            lines = Lines(bare)
            spot = _spot(bare, lines.number(why.at), why.at - lines.start(why.at) + 1)
            raise _refused(f"the instance {name!r} cannot be changed here: {why}", spot) from None
    except Rejected:
        pass  # our own result: nothing unproved leaves
    raise refused


def _note_name(name: str) -> Problem:
    message = f"no instance can be called {name!r}: keys that begin with {NOTE_PREFIX} are notes, which nothing is started from"
    return Problem(message=message, hint="choose another name", path=f"instances.{name}")


def _changed(instances: Document, changes: Changes) -> Document:
    kept = {key: value for key, value in instances.items() if key not in changes}
    return {**kept, **{name: body for name, body in changes.items() if body is not None}}


def _ended(text: str) -> str:
    """The text with an end to its last line."""
    return text if not text or text.endswith(("\n", "\r")) else text + Lines(text).ending(0)


def _spliced(bare: str, tree: _tree.Table, plan: Callable[[Changer, Splicer, _tree.Table], None]) -> str:
    """Plan and carry out; anchors that others use are handed over to them first, one after the other."""
    ended = _ended(bare)
    added = len(ended) - len(bare)
    for _ in range(MAX_ALIASES + 1):
        splicer = Splicer(Layout(ended))
        try:
            plan(Changer(splicer), splicer, tree)
        except Shared as shared:
            # a line end that was added may belong to the last value
            meaning = _meaning(_read(ended) if added else tree)
            ended, tree = _handed_over(splicer.layout, shared.node, tree, meaning)
            continue
        result = splicer.result()
        return result[:-added] if added and result.endswith(ended[-added:]) else result
    raise Unsupported("its anchors are used in too many places")


def _handed_over(layout: Layout, node: _layout.Node, tree: _tree.Table, meaning: Document) -> tuple[str, _tree.Table]:
    """The text with an anchor handed over, and its tree: as its value is written if that is possible, so that merges stay merges."""
    for as_written in (True, False):
        splicer = Splicer(layout)
        try:
            hand_over(splicer, node, tree, as_written=as_written)
            text = splicer.result()
            handed = _read(text)
        except (Unsupported, Rejected):
            if not as_written:
                raise
            continue
        if same(_meaning(handed), meaning):
            return text, handed
    raise Unsupported("its anchor is used elsewhere", node.start)


def _plan(changer: Changer, splicer: Splicer, tree: _tree.Table, changes: Changes) -> None:
    root = splicer.layout.root
    added = _changed({}, changes)
    if root is None:
        lines = block({"instances": added}, 2)
        splicer.put_lines(splicer.layout.finish, lines, 0)
        return
    if root.kind is not Kind.MAPPING:
        raise Unsupported("the whole file is an alias", root.start)
    outer = root.entry("instances")
    if outer is None:
        if "instances" in tree.entries:
            raise Unsupported("`instances` comes from a merge", root.start)
        changer.add(root, {"instances": added})
        return
    instances = outer.value
    if instances.kind is Kind.ALIAS:
        old = tree.entries["instances"].node
        known = _tree.plain(old)
        assert isinstance(known, dict)
        changer.value(root, outer, old, _changed(known, changes))
        return
    if instances.kind is not Kind.MAPPING:
        changer.put(root, outer, added)
        return
    table = tree.entries["instances"].node
    new = {name: body for name, body in added.items() if instances.entry(name) is None}
    for name in changes.keys() - new.keys():
        _replan(changer, (root, outer, instances), table, name, changes[name])
    if new and instances.entries:
        changer.add(instances, new)
    elif new:
        changer.put(root, outer, new)


def _replan(
    changer: Changer,
    where: tuple[_layout.Node, _layout.Entry, _layout.Node],
    table: _tree.Node,
    name: str,
    body: Document | None,
) -> None:
    """Change or remove one instance that is there."""
    root, outer, instances = where
    entry = instances.entry(name)
    if entry is None:
        raise Unsupported("it comes from a merge", instances.start)
    if body is not None:
        below = _tree.child(table, name)
        assert below is not None  # the layout and the tree are of one text
        changer.value(instances, entry, below, body)
    elif len(instances.entries) == 1:
        changer.put(root, outer, {})
    else:
        changer.remove(instances, [entry])
