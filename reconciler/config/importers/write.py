"""What an importer understood, as the text of a file that the loader accepts.

The loader itself is the judge: what it refuses is taken out, setting by setting (an instance that cannot do without it, as a whole), and
joins the list of what was lost. So a printed file always loads, and the list is the difference to what was read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.config._parse import parse
from reconciler.config._splice import block
from reconciler.config._tree import Node, Path, Table, words
from reconciler.config._tree import Sequence as List
from reconciler.config.importers.contract import Draft, Imported, Lost
from reconciler.config.importers.names import instance_name, is_name
from reconciler.config.schema import EDITOR_HINT
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import OptionValue

Load = Callable[[bytes, Mapping[str, str]], object]
"""Loads a text with these variables; Rejected with every problem at its place in the text."""

_NO_FILE = {("", "<stdin>"): "standard input", ("processes", "processes"): "the servers running on this host"}
"""What an import is said to be from where that is no file, by kind and name."""
_ROUNDS = 60
"""Refusals in a row after which the text is given up: each round takes out everything the loader named in one go."""
_NAME = "the imported file"
_VARIABLE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ASSUMED = "1"
"""Stands for a variable that is not set here while the text is checked: a text and a number at once."""
_NAMES = "names of instances are letters, digits, '.', '_' and '-', at most 63, and begin with a letter or a digit"
_TAKEN = "another instance has this name already; names differ in more than case"
_NEVER_ALONE = ("backend_type", "backend_options")
"""What an instance cannot do without: a complaint about the whole of it ends the instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file, and what is not in it."""

    text: str
    instances: Mapping[str, Mapping[str, Any]]
    """By their final names, in the other file's order."""
    sections: Mapping[str, Mapping[str, Any]]
    lost: tuple[Lost, ...]
    unset: tuple[str, ...] = ()
    """Variables that the file names and that are not set here: it is valid where they are."""


@dataclass(slots=True)
class _Work:
    """The document while it is being settled."""

    head: str
    sections: dict[str, Any]
    instances: dict[str, dict[str, Any]]
    drafts: Mapping[str, Draft]
    lines: Mapping[Path, int]
    lost: list[Lost] = field(default_factory=list)
    refused: dict[str, list[Lost]] = field(default_factory=dict)
    """What went of an instance, by its name: why it cannot stay is the first of it."""

    def text(self) -> str:
        parts = [self.head]
        parts += ["\n".join(block({name: section}, 2)) + "\n" for name, section in self.sections.items()]
        parts.append("\n".join(block({"instances": dict(self.instances)}, 2)) + "\n")
        return "\n".join(parts)


def merged(parts: Sequence[tuple[str, Imported]]) -> Imported:
    """Several files as one; each draft and loss says which it is from."""
    if len(parts) == 1:
        return parts[0][1]
    drafts = [replace(draft, file=draft.file or name) for name, part in parts for draft in part.drafts]
    lost = [replace(loss, file=loss.file or name) for name, part in parts for loss in part.lost]
    sections: dict[str, Mapping[str, OptionValue]] = {}
    lines: dict[Path, int] = {}
    for _, part in parts:
        sections.update(part.sections)
        lines.update(part.lines)
    return Imported(drafts=tuple(drafts), lost=tuple(lost), sections=sections, lines=lines)


def write(imported: Imported, *, kind: str, origin: str, load: Load, environ: Mapping[str, str]) -> Written:
    """The file's text and everything lost on the way, names made ours. Rejected only for a text that no removal makes acceptable."""
    lost = list(imported.lost)
    drafts = _named(imported.drafts, lost)
    shown = (
        _NO_FILE.get((kind, origin))
        or _NO_FILE.get(("", origin))
        or "".join(char if char.isprintable() else "?" for char in origin)
    )
    work = _Work(
        head=f"{EDITOR_HINT}# Made by `llamactl import {kind}` from {shown}.\n",
        sections=copy.deepcopy({name: dict(section) for name, section in imported.sections.items() if section}),
        instances={name: copy.deepcopy(dict(draft.body)) for name, draft in drafts.items()},
        drafts=drafts,
        lines=imported.lines,
        lost=lost,
    )
    text = _settled(work, load, environ)
    unset = tuple(name for name in sorted(_variables(work, text)) if not environ.get(name))
    for name in unset:
        why = "this variable is not set here, and the file is refused where it is not set"
        lost.append(Lost(what=f"${{{name}}}", why=why, cure="set it in the daemon's environment"))
    lost.sort(key=lambda one: (one.line is None, one.file or "", one.line or 0))
    return Written(text=text, instances=work.instances, sections=work.sections, lost=tuple(lost), unset=unset)


def _named(drafts: tuple[Draft, ...], lost: list[Lost]) -> Mapping[str, Draft]:
    """The drafts by valid and unique names; a name that had to change goes on as an alias."""
    taken: set[str] = set()
    names = [instance_name(draft.name, taken) for draft in drafts]
    named: dict[str, Draft] = {}
    for name, draft in zip(names, drafts, strict=True):
        named[name] = draft
        if name == draft.name:
            continue
        cure = f"the instance is called {name}"
        if draft.name.strip() and draft.name.isprintable() and draft.name not in names:
            old = draft.body.get("aliases")
            others = [alias for alias in old if alias != draft.name] if isinstance(old, list) else []
            named[name] = replace(draft, body={**draft.body, "aliases": [draft.name, *others]})
            cure += ", and requests may go on using the old name, which is its alias"
        why = _TAKEN if is_name(draft.name) else _NAMES
        lost.append(Lost(what=f"the name {draft.name!r}", why=why, cure=cure, line=draft.line, file=draft.file))
    return named


def _settled(work: _Work, load: Load, environ: Mapping[str, str]) -> str:
    """The first text that loads; what had to go for it is in ``work.lost``."""
    for _ in range(_ROUNDS):
        text = work.text()
        unset = {name: value for name, value in _variables(work, text).items() if not environ.get(name)}
        try:
            load(text.encode(errors="surrogateescape"), {**environ, **unset})
        except Rejected as refusal:
            _take_out(work, text, refusal)
        else:
            return text
    load(work.text().encode(errors="surrogateescape"), environ)
    return work.text()


def _variables(work: _Work, text: str) -> Mapping[str, str]:
    """Every variable that the text names, with what may stand for it while the text is checked."""
    sources: list[Any] = [*work.sections.get("auth", {}).get("inference_keys", ())]
    for body in work.instances.values():
        options = body.get("backend_options")
        sources.append(options.get("api_key") if isinstance(options, dict) else None)
    named = [source.get("env") for source in sources if isinstance(source, dict)]
    keys = {name: f"{_ASSUMED} {name}" for name in named if isinstance(name, str)}  # two keys must differ
    return {**keys, **dict.fromkeys(_VARIABLE.findall(text), _ASSUMED)}


def _take_out(work: _Work, text: str, refusal: Rejected) -> None:
    """Remove everything that was complained about; Rejected again when a complaint is about nothing in particular."""
    places = list(_places(parse(text.encode(errors="surrogateescape"), name=_NAME).root, ()))
    found: dict[Path, Problem] = {}
    for problem in refusal.problems:
        if problem.line is None and len(refusal.problems) > 1:
            continue  # that there are more of them: the next round names those
        target = _with_its_flag(work, _target(_path_at(places, problem)))
        if not target:
            raise refusal
        found.setdefault(target, problem)
    losses: list[Lost] = []
    for path in sorted(found, key=lambda path: [(isinstance(step, str), step) for step in path], reverse=True):
        if any(path[:length] in found for length in range(1, len(path))):
            continue  # goes with what it is in
        loss = _loss(work, path, found[path])
        _remove(work, path)
        if path[0] == "instances" and len(path) == 2:
            loss = _left_out(work, str(path[1]), loss)
        elif path[0] == "instances":
            work.refused.setdefault(str(path[1]), []).append(loss)
        losses.append(loss)
    work.lost += reversed(losses)


def _left_out(work: _Work, name: str, loss: Lost) -> Lost:
    """The one thing to say of an instance that cannot stay: what was said of its settings before would be false now."""
    draft = work.drafts[name]
    first = work.refused.pop(name, [])
    work.lost[:] = [one for one in work.lost if not any(one is gone for gone in first) and not _is_about(one, draft)]
    why = first[0] if first else loss
    return replace(loss, what=draft.where or draft.name, why=f"it was left out: {why.why}", cure=why.cure)


def _is_about(lost: Lost, draft: Draft) -> bool:
    if lost.file != draft.file or draft.where is None:
        return False
    return lost.what == f"the name {draft.name!r}" or lost.what.startswith(f"{draft.where}." if draft.where else "")


def _places(node: Node, path: Path) -> Iterator[tuple[tuple[int, int], Path]]:
    """Where everything stands, in the order of the text."""
    match node:
        case Table():
            for key, entry in node.entries.items():
                yield (entry.key_place.line, entry.key_place.column), (*path, key)
                yield from _places(entry.node, (*path, key))
        case List():
            for index, item in enumerate(node.items):
                yield (item.place.line, item.place.column), (*path, index)
                yield from _places(item, (*path, index))
        case _:
            yield (node.place.line, node.place.column), path


def _path_at(places: list[tuple[tuple[int, int], Path]], problem: Problem) -> Path:
    """What a problem's place is in: the last thing that begins at or before it."""
    if problem.line is None:
        return ()
    spot = (problem.line, problem.column or 1)
    before = [path for place, path in places if place <= spot]
    exact = [path for place, path in places if place == spot]
    return exact[-1] if exact else before[-1] if before else ()


def _target(path: Path) -> Path:
    """What has to go for it: one setting, one option of an instance, one item of a list, or the instance; empty for nothing."""
    if path[:1] == ("instances",):
        if len(path) < 3 or path[2:] in [(name,) for name in _NEVER_ALONE]:
            return path[:2] if len(path) > 1 else ()
        return path[:4]
    return path[:3] if len(path) > 2 and isinstance(path[2], int) else path[:2]


def _with_its_flag(work: _Work, path: Path) -> Path:
    """A word of ``extra_args`` stands for the flag that it belongs to."""
    if not _is_extra_word(path):
        return path
    given, at = work.instances[str(path[1])]["extra_args"], int(path[3])
    flag = next((index for index in range(at, -1, -1) if _is_flag(given[index])), at)
    return (*path[:3], flag)


def _is_extra_word(path: Path) -> bool:
    return path[:1] == ("instances",) and path[2:3] == ("extra_args",) and len(path) == 4 and isinstance(path[3], int)


def _is_flag(word: object) -> bool:
    return isinstance(word, str) and re.match(r"--?[A-Za-z]", word) is not None


def _remove(work: _Work, path: Path) -> None:
    root: Any = {**work.sections, "instances": work.instances}
    chain = [root]
    for step in path[:-1]:
        chain.append(chain[-1][step])
    last = path[-1]
    if _is_extra_word(path):
        last = int(last)
        values = chain[-1][last + 1 :]
        count = next((index for index, word in enumerate(values) if _is_flag(word)), len(values))
        del chain[-1][last : last + 1 + (count if _is_flag(chain[-1][last]) else 0)]
    else:
        del chain[-1][last]
    if path[0] != "instances":
        if len(path) == 1 or not work.sections[str(path[0])]:
            work.sections.pop(str(path[0]), None)
    elif len(path) == 4 and not chain[-1]:
        del chain[-2][path[-2]]


def _loss(work: _Work, path: Path, problem: Problem) -> Lost:
    """The loader's complaint, in terms of the file that was imported."""
    if path[0] != "instances" or str(path[1]) not in work.drafts:
        return Lost(what=words(path), why=problem.message, cure=problem.hint, line=_line(work.lines, path))
    draft, below = work.drafts[str(path[1])], path[2:]
    shown = words(below)
    if _is_extra_word(path):
        word = str(work.instances[str(path[1])]["extra_args"][int(path[3])])
        if _is_flag(word):  # and never what may stand behind it, which may be a secret
            below = ("extra_args", word.partition("=")[0])
            shown = f"extra_args {below[1]}"
    what = f"{draft.name}: {shown}" if below else draft.name
    line = _line(draft.lines, below) or draft.line
    return Lost(what=what, why=problem.message, cure=problem.hint, line=line, file=draft.file)


def _line(lines: Mapping[Path, int], path: Path) -> int | None:
    """The line of a setting, or of the nearest one around it."""
    return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), None)
