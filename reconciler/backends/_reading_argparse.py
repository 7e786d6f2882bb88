"""From the facts that ``vocabulary/dump_argparse.py`` prints about an argparse parser to a table of options.

All judgement is here, pure: which action takes how many words, what a converter makes of them, which flags belong together.
Where the facts do not say what a converter takes, the option takes any word, so that nothing is refused which the server reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.backends._reading import LONGEST_OUTPUT, clean_help, entry, reject, table
from reconciler.backends._vocabulary import script
from reconciler.core.options import OptionTable

MARK = "llamactl-options: "
"""Begins the one line that counts, as in the script."""
GROUP = "Server"
"""The group of what argparse itself files under "options"."""
_NO_GROUP = frozenset({"options", "optional arguments", "positional arguments", ""})
_SIZE_SUFFIX = r"\d+(?:\.\d+)?[kmgt]|\d+[KMGT]"
_BYTE_SUFFIX = r"\d+(?:\.\d+)? ?(?:[MmGg][Bb]?)"

Facts = Mapping[str, Any]

CONVERTERS: Mapping[str, Mapping[str, Any]] = {
    "str": {"type": "str"},
    "int": {"type": "int"},
    "float": {"type": "float"},
    "loads": {"type": "json"},
    "dict": {"type": "json"},
    "parse_dataclass": {"type": "json"},
    "union_dict_and_str": {"type": "json", "text": True},
    "human_readable_int": {"type": "int", "pattern": _SIZE_SUFFIX},
    "human_readable_int_or_auto": {"type": "int", "pattern": _SIZE_SUFFIX, "words": ("auto",)},
    "_parse_size": {"type": "int", "pattern": _BYTE_SUFFIX},
    "Path": {"type": "str"},
    "PurePath": {"type": "str"},
}
"""What a ``type=`` of this name reads: Python's own, those of vLLM 0.6 to 0.32 and of mlx_lm 0.32."""


def source(call: str) -> str:
    """The script with the call that builds one program's parser: a call of its ``report``."""
    return f"{script('dump_argparse')}\n\n{call}\n"


def read_argparse(
    output: str, *, backend: str, program: str, syntax: str, positional: Mapping[str, str] | None = None
) -> OptionTable:
    """The table in what the script printed, among whatever noise; Rejected when it is not there or tells of a failure.

    ``positional`` says which option a positional argument (by its ``dest``) is a bare form of.
    """
    raw = _line(output, program)
    if "error" in raw:
        reject(program, f"it failed: {raw['error']}", "")
    try:
        told = list(_named(raw["options"], positional or {}))
        options = [_option(one) for one in _paired(told)]
        version = str(raw["version"]).partition("+")[0]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reject(program, f"its answer is of another form ({type(error).__name__}: {error})", "")
    return table(backend=backend, version=version, program=program, syntax=syntax, options=options)


def _line(output: str, program: str) -> Facts:
    found = [line for line in output[:LONGEST_OUTPUT].splitlines() if line.startswith(MARK)]
    if not found:
        reject(program, "its interpreter did not tell them", output)
    try:
        raw = json.loads(found[-1][len(MARK) :])
    except (ValueError, RecursionError):
        reject(program, "its interpreter broke off while telling them", found[-1][:4000])
    if not isinstance(raw, dict):
        reject(program, "its interpreter told something else", found[-1][:4000])
    return raw


def _paired(options: Sequence[Facts]) -> Iterator[Facts]:
    """A switch and its opposite with the same ``dest`` are one: the opposite's flags become negative ones."""
    yes = {one["dest"]: one for one in options if one["flags"] and "_StoreTrueAction" in one["action"]}
    against: dict[str, list[str]] = {}
    for one in options:
        if one["dest"] in yes and "_StoreFalseAction" in one["action"]:
            against.setdefault(one["dest"], []).extend(one["flags"])
    for one in options:
        if one["dest"] not in against:
            yield one
        elif one is yes[one["dest"]]:
            yield {**one, "against": against[one["dest"]]}


def _named(options: Sequence[Facts], positional: Mapping[str, str]) -> Iterator[Facts]:
    """The options with flags; a positional argument that has a name for us is one, unless a flag of that name stands for it."""
    names = {_name(one, one["flags"]) for one in options if one["flags"]}
    bare = {positional[one["dest"]] for one in options if not one["flags"] and one["dest"] in positional}
    for one in options:
        if one["flags"]:
            yield {**one, "bare": _name(one, one["flags"]) in bare}
        elif (name := positional.get(one["dest"])) is not None and name not in names:
            flag = "--" + name.replace("_", "-")
            yield {**one, "flags": [flag], "dest": name, "nargs": None, "bare": True}


def _option(one: Facts) -> dict[str, Any]:
    flags, negative = _spellings(one)
    name = _name(one, flags)
    reads = _reads(one)
    kind = _kind(one)
    nargs = one["nargs"]
    return entry(
        name=name,
        flags=flags,
        kind=kind,
        **({"type": "bool"} if kind == "switch" else reads),
        count=nargs if kind == "tuple" else None,
        choices=None if kind == "switch" else [choice for choice in one["choices"] or () if choice is not None],
        nullable=kind in ("value", "append") and ("_optional_type" in _names(one) or None in (one["choices"] or ())),
        default=_default(one, kind, reads["type"]),
        negative=negative,
        optional=nargs == "?",
        positional=one["bare"],
        exits=bool({"_HelpAction", "_VersionAction"} & set(one["action"])),
        deprecated=_deprecated(one),
        group=GROUP if one["group"] in _NO_GROUP else clean_help(one["group"]),
        help=clean_help(one["help"]),
    )


def _spellings(one: Facts) -> tuple[list[str], list[str]]:
    flags = list(dict.fromkeys(one["flags"]))
    if "BooleanOptionalAction" not in one["action"]:
        return flags, list(one.get("against", ()))
    negative = [flag for flag in flags if flag.startswith("--no-") and "--" + flag[5:] in flags]
    return [flag for flag in flags if flag not in negative], negative


def _name(one: Facts, flags: Sequence[str]) -> str:
    """The ``dest`` where it is also a flag, else the first long flag's name: a file's key is what people know from the flags."""
    names = [flag.lstrip("-").replace("-", "_") for flag in sorted(flags, key=lambda flag: not flag.startswith("--"))]
    dest = str(one["dest"]).replace("-", "_")
    return dest if dest in names else names[0]


def _names(one: Facts) -> list[str]:
    return [name.rpartition(".")[2] for name in one["type"]]


def _kind(one: Facts) -> str:
    nargs, actions = one["nargs"], one["action"]
    if nargs == 0:
        return "switch"
    if isinstance(nargs, int):
        return "tuple"
    if nargs in ("+", "*", "...", "A..."):
        return "list"
    if {"_AppendAction", "_ExtendAction"} & set(actions):
        return "append"
    if "<lambda>" in _names(one) and {"split", ","} <= set(one["lambda"]):
        return "comma"
    return "value"


def _reads(one: Facts) -> Mapping[str, Any]:
    """What the converter makes of a word: the innermost that is known decides, since the others only wrap it."""
    names = _names(one)
    known = [CONVERTERS[name] for name in names if name in CONVERTERS]
    if known:
        return known[0]
    if one["choices"] and all(isinstance(choice, str | None) for choice in one["choices"]):
        return {"type": "str"}
    if not names:
        return {"type": "str"}
    if "<lambda>" in names:
        return {"type": "str"} if "lower" in one["lambda"] else {"type": "any"}
    return {"type": "json"} if any("json" in name.lower() for name in names) else {"type": "any"}


def _default(one: Facts, kind: str, reads: str) -> Any:
    """The default as a file would say it; a text that the program itself would read as JSON, read."""
    value = one["default"].get("is")
    if kind == "switch":
        if "_StoreTrueAction" in one["action"] or "BooleanOptionalAction" in one["action"]:
            return value if isinstance(value, bool) else None
        return False if "none" not in one["default"] else None
    if reads == "json" and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _deprecated(one: Facts) -> bool:
    said = clean_help(one["help"]).lower().lstrip("[(* ")
    if one["deprecated"] or said.startswith("deprecat") or any("Deprecat" in name for name in one["action"]):
        return True
    return any(said.startswith(f"{flag} is deprecated") for flag in one["flags"])
