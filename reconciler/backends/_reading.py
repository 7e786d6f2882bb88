"""What every reading of an installed program's options ends in: a table as plain data, or Rejected with what to do.

The readers proper are ``_reading_argparse`` and ``_reading_help``. Here are the form of a table's entry, the cleaning of help
texts, and the two things done with whole tables: stripping one for the package, and comparing two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
            hint=f"run {program} --help by hand, and give its path as the executable; until then the packaged options are used",
        )
    )


def packaged(read: OptionTable) -> OptionTable:
    """The table as it is packaged: without the program's own help texts, which are not ours to copy."""
    options: Any = read["options"]
    return {**read, "options": [{key: value for key, value in one.items() if key != "help"} for one in options]}


def differences(ours: OptionTable, theirs: OptionTable) -> Iterator[str]:
    """One line for each thing in which two tables differ, help texts aside: ``ours`` packaged, ``theirs`` read."""
    mine, other = packaged(ours), packaged(theirs)
    for key in sorted((mine.keys() | other.keys()) - {"options"}):
        if mine.get(key) != other.get(key):
            yield f"{key}: {mine.get(key)!r} is packaged, {other.get(key)!r} was read"
    mine_by, other_by = _by_name(mine), _by_name(other)
    for name in mine_by.keys() | other_by.keys():
        one, two = mine_by.get(name), other_by.get(name)
        if one is None or two is None:
            yield f"{name}: " + ("not packaged" if one is None else "packaged, and the program has none")
            continue
        for key in sorted(one.keys() | two.keys()):
            if one.get(key) != two.get(key):
                yield f"{name}: {key}: {one.get(key)!r} is packaged, {two.get(key)!r} was read"
    if list(mine_by) != list(other_by) and mine_by.keys() == other_by.keys():
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
