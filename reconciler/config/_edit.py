"""Changes to the user's file, text in and text out: one instance set, removed, switched on or off; comments and layout stay.

Every edit is proved before it is returned: the new text is read by the strict reader and must mean exactly the old document with that
one change. Splicing is tried first; where it cannot, ruamel's round trip, which keeps comments and may tidy spaces.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from reconciler.config._parse import parse
from reconciler.config._splice import Splicer, Unsupported, block
from reconciler.config._tree import Table, child, plain
from reconciler.core.errors import Missing, Problem, Rejected

_NAME = "the file"
Document = dict[str, JsonValue]


def declares(text: str, name: str) -> bool:
    """Whether this text declares the instance; Rejected when it is not valid YAML."""
    return name in _instances(_read(text))


def set_instance(text: str, name: str, body: Mapping[str, JsonValue]) -> str:
    """The text with the instance declared as ``body``: added after the others, or changed key by key where it stands.

    ``x-*`` keys of the instance stay. Rejected when the text, or what became of it, is not valid.
    """
    document = _read(text)
    old = _instances(document).get(name)
    kept = {key: value for key, value in old.items() if key.startswith("x-")} if isinstance(old, dict) else {}
    return _edited(text, document, name, {**kept, **body})


def remove_instance(text: str, name: str) -> str:
    """The text without the instance; Missing when it is not there."""
    document = _read(text)
    if name not in _instances(document):
        raise Missing(f"no instance is called {name!r} in this file")
    return _edited(text, document, name, None)


def set_enabled(text: str, name: str, enabled: bool) -> str:
    """The text with the instance's ``enabled`` set; unchanged when it says so already. Missing when it is not there."""
    document = _read(text)
    instances = _instances(document)
    if name not in instances:
        raise Missing(f"no instance is called {name!r} in this file")
    old = instances[name] or {}
    if not isinstance(old, dict):
        raise _refused(f"the instance {name!r} is not a mapping")
    defaults = document.get("defaults")
    below = defaults.get("enabled", True) if isinstance(defaults, dict) else True
    if old.get("enabled", below) is enabled:
        return text
    return _edited(text, document, name, {**old, "enabled": enabled})


def snippet(name: str, body: Mapping[str, JsonValue]) -> str:
    """One instance as YAML, ready to be put into a file."""
    return "\n".join(block({"instances": {name: dict(body)}}, 2)) + "\n"


def _refused(why: str) -> Rejected:
    return Rejected(Problem(message=f"cannot edit the file: {why}", hint="edit it by hand", code="CONFIG_NOT_EDITABLE"))


def _read(text: str) -> Document:
    """The meaning of a text, ``x-*`` keys and ``${VAR}`` as written; a text without a document is an empty one."""
    try:
        document = parse(text.encode(errors="surrogateescape"), name=_NAME)
    except Rejected as refusal:
        if all(problem.code == "CONFIG_EMPTY" for problem in refusal.problems):
            return {}
        raise
    if document.problems:
        raise Rejected(*document.problems)
    instances = child(document.root, "instances")
    if instances is not None and not isinstance(instances, Table) and plain(instances) is not None:
        raise _refused("`instances` is not a mapping")
    data = plain(document.root)
    assert isinstance(data, dict)
    return data


def _instances(document: Document) -> Document:
    instances = document.get("instances")
    return instances if isinstance(instances, dict) else {}


def _edited(text: str, document: Document, name: str, body: Document | None) -> str:
    """The text whose meaning is the document with that one instance changed (None: removed)."""
    wanted = {key: value for key, value in _instances(document).items() if key != name}
    if body is not None:
        wanted[name] = body
    expected = {**document, "instances": wanted}
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    ways: tuple[Callable[[str, str, Document | None], str], ...] = (_splice, _round_trip)
    for way in ways:
        try:
            result = way(text, name, body)
            if _read(result) == expected:
                return mark + result
        except (Unsupported, Rejected, YAMLError, ValueError, KeyError):
            continue  # the next way, or the refusal below: nothing unproved leaves
    raise _refused("its layout is too unusual to change one instance safely")


def _splice(text: str, name: str, body: Document | None) -> str:
    splicer = Splicer(text)
    root = splicer.root
    pair = splicer.pair(root, "instances") if isinstance(root, MappingNode) else None
    if pair is None:
        if body is None or (isinstance(root, MappingNode) and root.flow_style and not root.value):
            raise Unsupported("nothing to splice into")
        if isinstance(root, MappingNode) and root.value:
            splicer.add(root, "instances", {name: body})
            return splicer.result()
        end = "" if not text or text.endswith("\n") else splicer.newline
        lines = block({"instances": {name: body}}, 2)
        return text + end + splicer.newline.join(lines) + splicer.newline
    key, instances = pair
    if not isinstance(instances, MappingNode) or splicer.is_alias(key, instances) or splicer.has_merge(instances):
        if isinstance(instances, MappingNode):
            raise Unsupported("instances by alias or merge")
        splicer.replace(root, key, instances, {name: body})
        return splicer.result()
    own = splicer.pair(instances, name)
    if body is None:
        if len(instances.value) == 1:
            splicer.replace(root, key, instances, {})
        else:
            splicer.remove(instances, name)
    elif own is not None:
        _change(splicer, instances, own, body)
    elif instances.value:
        splicer.add(instances, name, body)
    else:
        splicer.replace(root, key, instances, {name: body})
    return splicer.result()


def _change(splicer: Splicer, mapping: Any, pair: tuple[Any, Any], new: Document) -> None:
    """Turn one table into another, touching only what differs."""
    key, node = pair
    if not isinstance(node, MappingNode) or splicer.is_alias(key, node) or not node.value:
        splicer.replace(mapping, key, node, new)
        return
    old = _meaning(splicer, node)
    if not set(old) & set(new) or (splicer.has_merge(node) and set(old) - set(new)):
        splicer.replace(mapping, key, node, new)
        return
    for name in old:
        if name not in new:
            splicer.remove(node, name)
    for name, value in new.items():
        own = splicer.pair(node, name)
        if own is None and name in old and old[name] == value:
            continue  # comes in by a merge
        if own is None:
            splicer.add(node, name, value, first=name == "enabled")
        elif old[name] != value or type(old[name]) is not type(value):
            if isinstance(value, dict) and value:
                _change(splicer, node, own, value)
            else:
                splicer.replace(node, *own, value)


def _meaning(splicer: Splicer, node: Any) -> Document:
    """What a mapping node of the text means, by the strict reader, found by its place."""
    root = parse(splicer.text.encode(errors="surrogateescape"), name=_NAME).root
    mark = node.start_mark
    stack: list[Any] = [root]
    while stack:
        current = stack.pop()
        if isinstance(current, Table):
            if (current.place.line, current.place.column) == (mark.line + 1, mark.column + 1):
                data = plain(current)
                assert isinstance(data, dict)
                return data
            stack.extend(entry.node for entry in current.entries.values())
    raise Unsupported("a mapping inside a list")


def _round_trip(text: str, name: str, body: Document | None) -> str:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    yaml.indent(mapping=2, sequence=4, offset=2)
    data = yaml.load(text) or {}
    instances = data.get("instances")
    if instances is None:
        data["instances"] = instances = {}
    if body is None:
        del instances[name]
    else:
        instances[name] = dict(body)
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()
