"""What every reading of an installed program's options ends in: a table as plain data, or Rejected with what to do.

The readers proper are ``_reading_argparse`` and ``_reading_help``. Here are the form of a table's entry, the cleaning of help
texts, and the two things done with whole tables: stripping one for the package, and comparing two.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from reconciler.backends._merge import NO_NOTES, merged
from reconciler.backends._vocabulary import Vocabulary
from reconciler.core.errors import Problem, Rejected
from reconciler.core.options import OptionTable
from reconciler.core.printed import one_line, shown
from reconciler.core.secrets import is_secret_name

LONGEST_HELP = 300
"""Characters of a program's help text that are kept: an editor shows about so many without scrolling."""
LONGEST_OUTPUT = 16 * 1024 * 1024
"""Characters of output that are looked at; vLLM's own 317 options take 0.2 million."""
LONGEST_SHOWN = 200
"""Characters of unreadable output that a message repeats: its last ones."""
_LONGEST_LOOKED_AT = 16 * 1024
"""Characters of it that are masked: far more than are shown, so that no secret is cut in two and shown in part."""
QUIET: Mapping[str, str] = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "NO_COLOR": "1",
}
"""Variables for a program that is only asked: it touches no GPU and no network, and reports nothing."""
_KEYS = (
    "name",
    "flags",
    "kind",
    "type",
    "count",
    "choices",
    "words",
    "pattern",
    "nullable",
    "text",
    "default",
    "negative",
    "repeat",
    "optional",
    "positional",
    "exits",
    "deprecated",
    "removed",
    "env",
    "group",
    "help",
)
"""What an entry may hold, in the order of the files."""


def clean_help(text: str) -> str:
    """One line of printable text, cut at a word to :data:`LONGEST_HELP` characters."""
    line = one_line(text)
    if len(line) <= LONGEST_HELP:
        return line
    return line[: LONGEST_HELP - 1].rsplit(" ", 1)[0] + "…"


def entry(**facts: Any) -> dict[str, Any]:
    """One option of a table: the keys in their order, without those that say nothing, and without a secret's default."""
    found = {key: facts[key] for key in _KEYS if key in facts}
    empty: tuple[Any, ...] = (None, (), [], "")
    kept = {
        key: value for key, value in found.items() if key == "default" or (value is not False and value not in empty)
    }
    if kept.get("default") is None or (isinstance(kept["default"], str) and is_secret_name(kept["name"])):
        kept.pop("default", None)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()}


def table(
    *, backend: str, version: str, program: str, syntax: str, options: Sequence[Mapping[str, Any]]
) -> OptionTable:
    """The table of these options; Rejected when they are not a server's, or no vocabulary."""
    if not any("--port" in option["flags"] for option in options):
        reject(program, "what it told has no --port, so it is no server", "")
    made = {
        "backend": backend,
        "version": version or "of an unknown version",
        "program": program,
        "syntax": str(syntax),
        "options": [dict(option) for option in options],
    }
    try:
        Vocabulary.from_json(merged(made, NO_NOTES))
    except (KeyError, TypeError, ValueError) as error:
        reject(program, f"what it told is no table of options ({error})", "")
    return made


def reject(program: str, reason: str, output: str) -> NoReturn:
    """Raise Rejected: the options cannot be read, why, what came instead, and what to do."""
    printed = shown(output[-_LONGEST_LOOKED_AT:])[-LONGEST_SHOWN:]
    why = shown(reason)[:LONGEST_HELP]
    raise Rejected(
        Problem(
            message=f"cannot read the options of {program}: {why}" + (f"; it printed: {printed}" if printed else ""),
            hint="see with --help, by hand, that it is the right program; until then the packaged options are used",
        )
    )


def packaged(read: OptionTable) -> OptionTable:
    """The table as it is packaged: without the program's own help texts, which are not ours to copy."""
    options: Any = read["options"]
    return {**read, "options": [{key: value for key, value in one.items() if key != "help"} for one in options]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Options in which two tables differ, by name, in the order of the tables."""

    added: tuple[str, ...]
    """Those that the first lacks."""
    gone: tuple[str, ...]
    """Those that the second lacks."""
    changed: Mapping[str, Mapping[str, tuple[Any, Any]]]
    """For each that both have, the facts that differ: what the first says, and what the second."""


def compared(one: OptionTable, other: OptionTable, *, but: Collection[str] = ("help",)) -> Comparison:
    """How the options of ``other`` differ from those of ``one``, all facts but some."""
    first, second = _by_name(one), _by_name(other)
    both = {name: (first[name], second[name]) for name in first if name in second}
    changed = {
        name: {
            key: (old.get(key), new.get(key))
            for key in sorted(old.keys() | new.keys())
            if key not in but and old.get(key) != new.get(key)
        }
        for name, (old, new) in both.items()
    }
    return Comparison(
        added=tuple(name for name in second if name not in first),
        gone=tuple(name for name in first if name not in second),
        changed={name: facts for name, facts in changed.items() if facts},
    )


def differences(ours: OptionTable, theirs: OptionTable) -> Iterator[str]:
    """One line for each thing in which two tables differ, help texts aside: ``ours`` packaged, ``theirs`` read."""
    for key in sorted((ours.keys() | theirs.keys()) - {"options"}):
        if ours.get(key) != theirs.get(key):
            yield f"{key}: {ours.get(key)!r} is packaged, {theirs.get(key)!r} was read"
    found = compared(ours, theirs)
    yield from (f"{name}: not packaged" for name in found.added)
    yield from (f"{name}: packaged, and the program has none" for name in found.gone)
    for name, facts in found.changed.items():
        yield from (f"{name}: {key}: {old!r} is packaged, {new!r} was read" for key, (old, new) in facts.items())
    if not found.added and not found.gone and list(_by_name(ours)) != list(_by_name(theirs)):
        yield "the options stand in another order"


def _by_name(one: OptionTable) -> dict[str, Mapping[str, Any]]:
    options: Any = one["options"]
    return {option["name"]: option for option in options}


def as_text(one: OptionTable) -> str:
    """The table as its file holds it: JSON with one option a line, so that a change of one option is a change of one line."""
    options: Any = one["options"]
    head = [f" {_json(key)}: {_json(value)},\n" for key, value in one.items() if key != "options"]
    lines = ",\n".join("  " + _json(option) for option in options)
    return "{\n" + "".join(head) + ' "options": [\n' + lines + "\n ]\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
