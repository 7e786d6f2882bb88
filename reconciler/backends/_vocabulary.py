"""A backend version's options as frozen data: spellings, type, arity, choices, default, negative form.

The tables are the JSON files in ``vocabulary/``, read once when first asked for: ``KIND.json`` as the program gave it, and
``KIND.notes.json`` with what is known besides. A table read from an installed program gets the same notes (``_merge``), so
nothing here knows which version it holds. Nothing here renders or parses.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any, Literal, get_args

from pydantic import JsonValue

from reconciler.backends._merge import NO_NOTES, merged
from reconciler.backends._nearest import Index, index, nearest, nearest_key


class Kind(StrEnum):
    """How many words an option takes, and how."""

    SWITCH = "switch"
    """No value: the flag says yes, its negative flag (where there is one) says no."""
    VALUE = "value"
    """One value."""
    LIST = "list"
    """One flag, then one or more values."""
    APPEND = "append"
    """One value; the flag may be repeated."""
    COMMA = "comma"
    """One value that holds a list, separated by commas."""
    TUPLE = "tuple"
    """One flag, then exactly ``count`` values."""


class Type(StrEnum):
    """What a value (or each item of a list) is."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    STR = "str"
    JSON = "json"
    ANY = "any"
    """A word or a number; the server reads it itself."""


class Syntax(StrEnum):
    """Which manner of command line the server reads."""

    ARGPARSE = "argparse"
    """Python's argparse: ``--flag=value``, unique prefixes."""
    VLLM = "vllm"
    """vLLM's extension of argparse: underscores, dotted JSON flags."""
    LLAMA = "llama"
    """llama.cpp's own: the next word is the value, whatever it looks like; no ``=``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of one version of one server."""

    name: str
    """Canonical key, with underscores."""
    flags: tuple[str, ...]
    kind: Kind
    type: Type
    count: int = 1
    """Number of values of a ``TUPLE``."""
    choices: tuple[JsonValue, ...] = ()
    words: tuple[str, ...] = ()
    """Words that a number may be instead (``auto``)."""
    pattern: str | None = None
    """Further texts that the server reads as a number (``32k``), a regular expression for the whole text."""
    minimum: float | None = None
    """Least number that the server takes; None where none is known."""
    maximum: float | None = None
    above: float | None = None
    """The server wants more than this number."""
    below: float | None = None
    """The server wants less than this number."""
    doubted: bool = False
    """The limits are another version's: a number beyond them is warned of, not refused."""
    nullable: bool = False
    """The server reads ``None`` and the empty text as absent."""
    text: bool = False
    """A JSON option that also takes plain text."""
    mapping: bool = False
    """A JSON option that takes a mapping only."""
    ordered: bool = False
    """A JSON option in which the order of keys means something."""
    multiline: bool = False
    """Line breaks and tabs belong to its values (templates, grammars)."""
    default: JsonValue = None
    """The server's own default; None when it has none or it is not plain data."""
    negative: tuple[str, ...] = ()
    repeat: bool = False
    """A ``COMMA`` option whose flag may also be repeated."""
    optional: bool = False
    """The flag may stand without its value."""
    positional: bool = False
    """May be given as a bare word."""
    secret: bool = False
    exits: bool = False
    """The server prints something and ends."""
    deprecated: bool = False
    removed: str | None = None
    """What to do instead; the server refuses the option."""
    env: str | None = None
    """Variable that sets it too."""
    group: str = ""
    help: str = ""

    @property
    def flag(self) -> str:
        """The spelling that is rendered: the canonical name's own flag, else the first long one, else the first."""
        own = "--" + self.name.replace("_", "-")
        if own in self.flags:
            return own
        return next((flag for flag in self.flags if flag.startswith("--")), self.flags[0])

    @property
    def keys(self) -> tuple[str, ...]:
        """Every name it may have in a file, with underscores, the canonical one first."""
        long = [flag[2:].replace("-", "_") for flag in self.flags if flag.startswith("--")]
        return tuple(dict.fromkeys([self.name, *long]))

    @property
    def many(self) -> bool:
        """Whether a list is a natural value."""
        return self.kind in (Kind.LIST, Kind.APPEND, Kind.COMMA, Kind.TUPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A flag that earlier versions had."""

    hint: str
    becomes: Mapping[str, JsonValue] = field(default_factory=dict)
    """The same meaning in this version's options; empty when there is none."""
    together: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """What it means beside another such flag, by that flag; two that became one option and have no entry exclude each other."""
    switch: bool = False
    """It took no value."""
    moot: bool = False
    """What it asked for is what every version does now, so that nothing is lost without it."""
    later: bool = False
    """It is of a later version than this one, which does not have it yet."""


Compare = Literal["at_most", "below", "multiple_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a server demands between options: exactly one of ``needs``, ``conflicts``, ``values`` and ``compare``."""

    option: str
    """Its subject; a name, or a key within a JSON option (``compilation_config.mode``)."""
    needs: tuple[str, ...] = ()
    """With the subject set (and not false), one of these must be."""
    conflicts: str | None = None
    """Never set together with the subject."""
    values: tuple[JsonValue, ...] = ()
    """All that the subject may be."""
    compare: Compare | None = None
    other: str | None = None
    """What the subject's number is compared with."""
    when: Mapping[str, JsonValue] = field(default_factory=dict)
    """Holds only where these options (by default, if not given) have these values; a list means any of them."""
    message: str
    hint: str
    warning: bool

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Rule:
        """Build one from a table's plain data; ``{"option": …, "at_most": OTHER}`` is a comparison."""
        compare = next((word for word in get_args(Compare) if word in entry), None)
        needs = entry.get("needs", ())
        return cls(
            option=entry["option"],
            needs=(needs,) if isinstance(needs, str) else tuple(needs),
            conflicts=entry.get("conflicts"),
            values=tuple(entry.get("values", ())),
            compare=compare,
            other=entry[compare] if compare is not None else None,
            when=entry.get("when", {}),
            message=entry["message"],
            hint=entry["hint"],
            warning=entry["severity"] == "warning",
        )


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """All options of one version of one server, found by any spelling."""

    backend: str
    version: str
    program: str
    """What messages call the server."""
    syntax: Syntax
    options: tuple[Option, ...]
    gone: Mapping[str, Gone]
    rules: tuple[Rule, ...]
    foreign: Mapping[str, str] = field(default_factory=dict)
    """Keys of other servers, each with what it is called here."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Vocabulary:
        """Build one from a table's plain data; raises KeyError, TypeError or ValueError when it is no such table."""
        return cls(
            backend=data["backend"],
            version=data["version"],
            program=data["program"],
            syntax=Syntax(data["syntax"]),
            options=tuple(_option(entry) for entry in data["options"]),
            gone={flag: Gone(**entry) for flag, entry in data["gone"].items()},
            rules=tuple(Rule.from_json(entry) for entry in data["rules"]),
            foreign=data.get("foreign", {}),
        )

    def __iter__(self) -> Iterator[Option]:
        return iter(self.options)

    def __getitem__(self, name: str) -> Option:
        """The option with this canonical name; KeyError for none."""
        return self._by_key[name]

    @cached_property
    def _by_key(self) -> Mapping[str, Option]:
        return _index((key, option) for option in self.options for key in option.keys)

    @cached_property
    def _by_flag(self) -> Mapping[str, tuple[Option, bool]]:
        positive = ((flag, (option, True)) for option in self.options for flag in option.flags)
        negative = ((flag, (option, False)) for option in self.options for flag in option.negative)
        return {**dict(negative), **dict(positive)}

    def by_key(self, key: str) -> Option | None:
        """The option that a file's key means, all dashes or all underscores; None for an unknown one."""
        return self._by_key.get(key) or (self._by_key.get(key.replace("-", "_")) if "_" not in key else None)

    def by_flag(self, flag: str) -> tuple[Option, bool] | None:
        """The option behind a command line flag and whether the flag says yes; underscores count as dashes."""
        found = self._by_flag.get(flag)
        if found is None and flag.startswith("--"):
            found = self._by_flag.get("--" + flag[2:].replace("_", "-"))
        return found

    def by_prefix(self, flag: str) -> tuple[str, Option, bool] | None:
        """The one long flag that starts so, as argparse finds it; None for none or several options."""
        start = "--" + flag[2:].replace("_", "-")
        names, at = self._sorted_flags, bisect_left(self._sorted_flags, start)
        hits: dict[str, tuple[str, Option, bool]] = {}
        while at < len(names) and names[at].startswith(start):
            option, positive = self._by_flag[names[at]]
            hits[option.name] = (names[at], option, positive)
            at += 1
        return next(iter(hits.values())) if len(hits) == 1 else None

    @cached_property
    def _sorted_flags(self) -> Sequence[str]:
        return sorted(self._by_flag)

    def meant(self, word: str) -> tuple[str, Option, bool] | None:
        """The flag that a word of a command line is to the server, its option and whether it says yes; None for no flag it knows.

        It may be shortened, stand for a key within (``--a.b``), or hold its value behind ``=``; so may one with a blank in it,
        which a server refuses, but which shows what it holds all the same.
        """
        name = re.split(r"[=\s]", word, maxsplit=1)[0]
        if self.syntax is Syntax.VLLM:
            name = name.partition(".")[0]
        if len(name) < 2 or not name.startswith("-") or name == "--":
            return None
        found = self.by_flag(name)
        if found is not None:
            return name, *found
        shortens = self.syntax is not Syntax.LLAMA and name.startswith("--")
        return self.by_prefix(name) if shortens else None

    def gone_flag(self, flag: str) -> Gone | None:
        """What became of a flag of an earlier version."""
        return self.gone.get("--" + flag.lstrip("-").replace("_", "-"))

    def nearest_key(self, key: str) -> str | None:
        """The known key most like this one, spelled with the dashes or underscores that the user prefers."""
        wanted = key.lstrip("-").replace("-", "_").lower()
        short = self._by_flag.get("-" + key.lstrip("-"))
        if short is not None:
            return short[0].name
        near = nearest_key(wanted, self._by_key)
        return near.replace("_", "-") if near is not None and "-" in key else near

    def nearest_flag(self, flag: str) -> str | None:
        """The known flag most like this one."""
        wanted = flag.replace("_", "-").lower()
        glued = re.fullmatch(r"(-[A-Za-z]+)=?(\d+)", flag)
        if glued and glued[1] in self._by_flag:
            return f"{glued[1]} {glued[2]}"
        return nearest(wanted, self._flag_pairs)

    @cached_property
    def _flag_pairs(self) -> Index:
        return index(self._by_flag)


def _index(pairs: Iterable[tuple[str, Option]]) -> dict[str, Option]:
    """First come, first kept: a canonical name is never taken over by another option's further name."""
    index: dict[str, Option] = {}
    for key, option in pairs:
        index.setdefault(key, option)
    return index


_TUPLES = ("flags", "choices", "words", "negative")


def _option(entry: Mapping[str, Any]) -> Option:
    plain = {**entry, "kind": Kind(entry["kind"]), "type": Type(entry["type"])}
    for name in _TUPLES:
        if name in plain:
            plain[name] = tuple(plain[name])
    return Option(**plain)


@lru_cache(maxsize=8)
def script(name: str) -> str:
    """Source text from ``vocabulary/`` that another interpreter runs; FileNotFoundError for none of that name."""
    return (resources.files("reconciler.backends") / "vocabulary" / f"{name}.py").read_text(encoding="utf-8")


@lru_cache(maxsize=8)
def packaged_json(name: str) -> Mapping[str, Any] | None:
    """A file of ``vocabulary/`` by its name without the ending, read once: a kind's table or its notes; None where there is none."""
    file = resources.files("reconciler.backends") / "vocabulary" / f"{name}.json"
    data: Mapping[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return data


@lru_cache(maxsize=1)
def _servers() -> tuple[str, ...]:
    """The kinds of the packaged tables of real servers: those with notes."""
    folder = resources.files("reconciler.backends") / "vocabulary"
    ending = ".notes.json"
    return tuple(sorted(file.name.removesuffix(ending) for file in folder.iterdir() if file.name.endswith(ending)))


def owner(key: str, besides: str) -> tuple[str, str] | None:
    """The program of another packaged table that has an option of this key, and its name there; None when none or several have."""
    plain = key.lstrip("-")
    found = []
    for kind in _servers():
        table = load(kind)
        short = table.by_flag(f"-{plain}") if 1 < len(plain) <= _LONGEST_SHORT else None
        option = table.by_key(plain) or (short[0] if short is not None else None)
        if kind != besides and option is not None:
            found.append((table.program, option.name))
    return found[0] if len(found) == 1 else None


_LONGEST_SHORT = 4
"""Letters of a flag with one dash that people take for the option's name (``ngl``)."""


@lru_cache(maxsize=8)
def load(backend: str) -> Vocabulary:
    """The packaged vocabulary of a backend, read once; KeyError for a backend without one."""
    table = packaged_json(backend)
    if table is None:
        raise KeyError(backend)
    return Vocabulary.from_json(merged(table, packaged_json(f"{backend}.notes") or NO_NOTES))


def from_table(table: Mapping[str, object]) -> Vocabulary:
    """The vocabulary of a table's plain data, built once per table object, with the packaged notes of its backend.

    What the packaged version has and this one lacks is told as gone; errors as :meth:`Vocabulary.from_json`.
    """
    known = _BUILT.get(id(table))
    if known is None or known[0] is not table:
        if len(_BUILT) >= _MOST_BUILT:
            _BUILT.clear()
        backend = str(table["backend"])
        notes = packaged_json(f"{backend}.notes") or NO_NOTES
        known = _BUILT[id(table)] = (table, Vocabulary.from_json(merged(table, notes, packaged_json(backend))))
    return known[1]


_MOST_BUILT = 16
_BUILT: dict[int, tuple[Mapping[str, object], Vocabulary]] = {}
"""By the table's identity, the table kept with it so that the identity stays its own."""
