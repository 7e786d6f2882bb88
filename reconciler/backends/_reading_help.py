"""From the text that ``llama-server --help`` prints to a table of options.

The text is written for people: it gives flags, a placeholder, a description. What it does not tell (a whole number or any number,
whether a flag may be repeated) stays open here, so that nothing is refused which the server reads; the notes beside the packaged table
say what is known. ``--version`` may stand in the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.backends._reading import LONGEST_OUTPUT, clean_help, entry, reject, table
from reconciler.core.options import OptionTable
from reconciler.core.printed import without_colours

_FLAG = r"-{1,2}[A-Za-z0-9][\w.\-]*"
_HEAD = re.compile(rf"{_FLAG}(?:,\s*{_FLAG})*")
_SECTION = re.compile(r"-{3,}\s*(.*?)\s*-{3,}\s*")
_VERSION = re.compile(r"(?m)^version:\s*(\S.*?)\s*$")
_ENV = re.compile(r"\(env: (\w+)\)")
_MORE_INFO = re.compile(r"\[\([^)]*\)\]\([^)]*\)")
_DEFAULT = re.compile(r"\bdefault: *((?:\([^()]*\)|[^()])*)")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(?=[\s,;]|$)")
_ALLOWED = re.compile(r"allowed values: ((?:[\w.+-]+, )*[\w.+-]+)")
_BULLET = re.compile(r"- ([\w.+-]+)(?: \(default\))?:(?: |$)")
_QUOTED = re.compile(r"'([a-z][\w-]*)'")
_REMOVED = "argument has been removed"
_NUMERIC = frozenset({"N", "L", "P", "SEED", "INDEX", "PORT", "SECONDS", "SIMILARITY"})
"""Placeholders that stand for a number of some kind."""
_ABSENT = frozenset({"unused", "none", "disabled", "unset", "empty", "enabled"})
"""Words that say in a default's place that there is none."""


@dataclass(slots=True)
class _Block:
    """One option as it stands in the text."""

    flags: list[str]
    hint: str
    group: str
    lines: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """The description as one line, without where else it can be set or read about."""
        return _MORE_INFO.sub("", _ENV.sub("", " ".join(line for line in self.lines if line))).strip()


def read_help(output: str, *, backend: str, program: str, syntax: str) -> OptionTable:
    """The table in a help text, among whatever noise; Rejected when the text lists no server's options."""
    text = without_colours(output[:LONGEST_OUTPUT]).replace("\r\n", "\n").expandtabs(8)
    blocks = list(_blocks(text.splitlines()))
    if not blocks:
        reject(program, "its --help lists none", output)
    version = _VERSION.search(text)
    return table(
        backend=backend,
        version=version[1] if version else "",
        program=program,
        syntax=syntax,
        options=[_option(block) for block in blocks],
    )


def _blocks(lines: Sequence[str]) -> Iterator[_Block]:
    group, block = "", None
    for line in lines:
        section, head = _SECTION.fullmatch(line), _HEAD.match(line)
        if line.startswith(" ") and block is not None:
            block.lines.append(line.strip())
            continue
        if not line.strip():
            continue  # a blank line inside a description
        if block is not None:
            yield block
            block = None
        if section:
            group = section[1].removesuffix(" params")
        elif head:
            hint, description = _parts(line[head.end() :])
            block = _Block(re.findall(rf"(?<![\w-]){_FLAG}", head[0]), hint, group, [description])
    if block is not None:
        yield block


def _parts(rest: str) -> tuple[str, str]:
    """Placeholder and description: two spaces or more stand between them."""
    if not rest or rest.startswith("  "):
        return "", rest.strip()
    hint, _, description = rest.lstrip(" =").partition("  ")
    return hint.strip(), description.strip()


def _option(block: _Block) -> dict[str, Any]:
    flags, negative = _signs(block) if not block.hint else (block.flags, [])
    long = [flag for flag in flags if flag.startswith("--")] or flags
    form = _form(block)
    env = _ENV.search(" ".join(block.lines))
    said = block.said
    return entry(
        name=long[0].lstrip("-").replace("-", "_"),
        flags=flags,
        **form,
        default=_default(block, form, negative),
        negative=negative,
        exits=not block.hint and (said.startswith(("print ", "show ")) or "and exit" in said),
        deprecated="deprecated" in said.lower() and _REMOVED not in said,
        removed=_instead(said) if _REMOVED in said else None,
        env=env[1] if env else None,
        group=block.group,
        help=clean_help(said),
    )


def _signs(block: _Block) -> tuple[list[str], list[str]]:
    """A switch's flags that say yes, and those that say no: they stand last, ``--no-x`` and short ones such as ``-nx``."""
    yes = [at for at, flag in enumerate(block.flags) if flag.startswith("--") and not flag.startswith("--no-")]
    if not yes or not any(flag.startswith("--no-") for flag in block.flags):
        return block.flags, []
    negative = [
        flag
        for at, flag in enumerate(block.flags)
        if flag.startswith("--no-") or (at > yes[-1] and flag.startswith("-n"))
    ]
    return [flag for flag in block.flags if flag not in negative], sorted(negative, key=lambda one: one[:2] != "--")


def _form(block: _Block) -> dict[str, Any]:
    """Kind, type, count, choices and words."""
    hint, said = block.hint, block.said
    if not hint:
        return {"kind": "switch", "type": "bool"}
    choices = _choices(block)
    if re.fullmatch(r"[A-Z_]+(?: [A-Z_]+)+", hint):
        return {"kind": "tuple", "type": "any", "count": len(hint.split())}
    if choices is None and re.fullmatch(r"[\w-]+(?:,[\w-]+){2,}", hint):
        return {"kind": "comma", "type": "str", "choices": hint.split(",")}
    if hint.rstrip(">").endswith(",...") or hint.rstrip(">").endswith(",..") or "comma-separated" in said:
        return {"kind": "comma", "type": "any" if re.match(r"(?:N|P|MiB)\d", hint) else "str"}
    if choices is not None:
        whole = all(isinstance(choice, int) for choice in choices)
        return {"kind": "value", "type": "int" if whole else "str", "choices": choices}
    return {"kind": "value", **_single(hint, said)}


def _choices(block: _Block) -> list[int | str] | None:
    """What the placeholder or the description lists in full; None where a value may also be another."""
    listed = re.fullmatch(r"[{\[<]([^{}\[\]<>]*)[}\]>]", block.hint)
    if listed and re.search(r"[,|]", listed[1]) and ".." not in listed[1]:
        words = [word.strip() for word in re.split(r"[,|]", listed[1])]
        return [int(word) for word in words] if all(word.isdigit() for word in words) else list(words)
    allowed = _ALLOWED.search(block.said)
    if allowed:
        return list(allowed[1].split(", "))
    words = [bullet[1] for bullet in map(_BULLET.match, block.lines) if bullet]
    default = _said_default(block)
    if len(words) < 2 or any(_NUMBER.fullmatch(word) for word in words) or (default and default not in words):
        return None
    return list(words)


def _single(hint: str, said: str) -> Mapping[str, Any]:
    if hint in ("JSON", "SCHEMA") or re.search(r"\bvalid json\b", said, re.IGNORECASE):
        return {"type": "json"}
    number = _NUMBER.match(_raw_default(said))
    if re.fullmatch(r"<?\d+\.{2,3}\d+>?", hint) or (number and not number[1] and hint in _NUMERIC):
        return {"type": "int"}
    if number and hint in _NUMERIC:
        return {"type": "float"}
    if hint not in _NUMERIC:
        return {"type": "str"}
    word = re.match(r"'?([a-z]+)'?(?=[,;]|$)", _raw_default(said))
    if word and word[1] not in _ABSENT:
        return {"type": "int", "words": list(dict.fromkeys([word[1], *_QUOTED.findall(said)]))}
    return {"type": "any"}


def _raw_default(said: str) -> str:
    found = _DEFAULT.findall(said)
    return found[-1].strip() if found else ""


def _said_default(block: _Block) -> str:
    """The default where it is one word, without quotes; empty for none and for a phrase."""
    raw = re.sub(r"\s*\(.*\)$", "", _raw_default(block.said)).rstrip(",; ")
    word = raw[1:-1] if len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\"" else raw
    return "" if re.search(r"\s", word) else word


def _default(block: _Block, form: Mapping[str, Any], negative: Sequence[str]) -> Any:
    raw = _raw_default(block.said)
    if form["kind"] == "switch":
        said = re.match(r"(?:\w+ )?(enabled|disabled|true|false)(?=[,;]|$)", raw)
        if said:
            return said[1] in ("enabled", "true")
        return None if negative or raw else False
    number = _NUMBER.match(raw)
    if number and form["type"] != "str":
        return float(number[0]) if number[1] else int(number[0])
    word = _said_default(block)
    choices = form.get("choices", ())
    if not word or (choices and word not in choices) or (not choices and word in _ABSENT):
        return None
    return word if form["type"] == "str" or word in form.get("words", ()) else None


def _instead(said: str) -> str:
    flags = re.findall(r"--[\w*-]*\w", said.partition(_REMOVED)[2])
    return "use " + " or ".join(flags) if flags else "remove it"
