"""A table of options as a program gave it, and what is known besides: one table. Plain data in, plain data out.

A table says what one version has; notes say what no program tells (better help, secrets, what replaced a flag). Notes are
written for one version and merged into any, so they never make a table unusable: what they say of an option that a table lacks,
or in a form that does not fit there, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Plain = Mapping[str, Any]

LIMITS = ("minimum", "maximum", "above", "below")
NO_NOTES: Plain = {"options": {}, "gone": {}, "rules": []}


def merged(table: Plain, notes: Plain, packaged: Plain | None = None) -> dict[str, Any]:
    """The table with the notes in it.

    ``packaged`` is the table that the notes were written for, where it is another one: its flags that ``table`` lacks are then
    told as gone. Raises KeyError, TypeError or ValueError when ``table`` is none.
    """
    other_version = packaged is not None and packaged["version"] != table["version"]
    options = [
        _noted(entry, notes["options"].get(entry["name"], {}), other_version=other_version)
        for entry in table["options"]
    ]
    names = {key for entry in options for key in _keys(entry)}
    flags = set(_flags(options))
    lost = _lost(packaged, table, flags) if packaged is not None else {}
    gone = {**lost, **notes["gone"], **table.get("gone", {})}
    rules = [*notes["rules"], *table.get("rules", [])]
    return {
        **table,
        "options": options,
        "gone": {flag: _meant(entry, names) for flag, entry in gone.items() if flag not in flags},
        "rules": [_doubted(rule, other_version) for rule in rules if set(_subjects(rule)) <= names],
        "foreign": notes.get("foreign", {}),
    }


def _noted(entry: Plain, note: Plain, *, other_version: bool) -> dict[str, Any]:
    """One option with what fits of its note: a note sharpens what the program left open, and contradicts nothing it said.

    Limits that only a note tells of are what one version enforces: they are doubted for any other.
    """
    limits = [key for key in LIMITS if key in note]
    if limits and any(key in entry for key in LIMITS):  # the program told its own
        note = {key: value for key, value in note.items() if key not in LIMITS}
    elif limits and other_version and _fits({**entry, "type": note.get("type", entry["type"])}, limits[0]):
        note = {**note, "doubted": True}
    sharper = {key: note[key] for key in ("kind", "type") if key in note and _opens(entry, key)}
    form = {**entry, **sharper}
    return {**form, **{key: value for key, value in note.items() if key not in ("kind", "type") and _fits(form, key)}}


def _opens(entry: Plain, key: str) -> bool:
    """Whether an option's kind or type is one that a program gives where it does not tell more."""
    return entry["kind"] != "switch" and entry[key] in ({"kind": ("value", "comma"), "type": ("any", "str")}[key])


def _fits(form: Plain, key: str) -> bool:
    match key:
        case "repeat":
            fits = form["kind"] == "comma"
        case "text" | "mapping" | "ordered":
            fits = form["type"] == "json"
        case "help":
            fits = not form.get("help")  # the installed program's own text is of its own version
        case "removed":
            fits = "removed" in form
        case _ if key in LIMITS or key in ("pattern", "words"):
            fits = form["type"] in ("int", "float", "any")
        case _:
            fits = True
    return bool(fits)


def _subjects(rule: Plain) -> Iterator[str]:
    """The options that a rule speaks of."""
    needs = rule.get("needs", ())
    yield from (needs,) if isinstance(needs, str) else needs
    yield from rule.get("when", {})
    for key in ("option", "conflicts", "at_most", "below", "multiple_of"):
        if key in rule:
            yield rule[key].partition(".")[0]


def _doubted(rule: Plain, other_version: bool) -> Plain:
    """What one version enforces is a warning for any other."""
    return {**rule, "severity": "warning"} if other_version else rule


def _keys(entry: Plain) -> Iterator[str]:
    yield entry["name"]
    yield from (flag[2:].replace("-", "_") for flag in entry["flags"] if flag.startswith("--"))


def _flags(options: Iterable[Plain]) -> Iterator[str]:
    for entry in options:
        yield from entry["flags"]
        yield from entry.get("negative", ())
        yield "--" + entry["name"].replace("_", "-")


def _meant(entry: Plain, names: set[str]) -> dict[str, Any]:
    """What became of a flag, without a meaning in options that this version lacks too."""
    meaning = entry.get("becomes", {})
    if names.issuperset(meaning):
        return dict(entry)
    return {**entry, "becomes": {}, "together": {}}


def _lost(packaged: Plain, table: Plain, flags: set[str]) -> dict[str, Any]:
    """The long flags of the packaged version that this one lacks, each with what is left to do."""
    later = is_later(packaged["version"], table["version"])
    have = {entry["name"] for entry in table["options"]}
    found: dict[str, Any] = {}
    for entry in packaged["options"]:
        for flag in (*entry["flags"], *entry.get("negative", ())):
            if flag in flags or not flag.startswith("--"):
                continue
            if entry["name"] in have:
                hint = f"use {entry['name']}"
            elif later:
                hint = f"{packaged['program']} {packaged['version']} has it: upgrade, or remove it"
            else:
                hint = "remove it"
            found[flag] = {"hint": hint, "later": later, "switch": entry["kind"] == "switch"}
    return found


def is_later(version: str, than: str) -> bool:
    """Whether a version's first number sequence is higher; False where either has none."""
    mine, other = _numbers(version), _numbers(than)
    return bool(mine and other) and mine > other


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
