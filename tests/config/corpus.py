"""Every hostile or odd input that the reader must take or refuse, with what it must say. Run as a program it loads them all.

The program exists so that time and memory are measured in a process of its own: it prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

COMPLEX, INVALID, EMPTY = "CONFIG_TOO_COMPLEX", "CONFIG_INVALID", "CONFIG_EMPTY"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input: refused with ``code`` at ``place`` (line, column), or read as ``value`` when there is no code."""

    data: bytes
    code: str | None = None
    place: tuple[int, int] | None = None
    says: str = ""
    value: JsonValue = None
    seconds: float = 1.0
    """CPU time it may take."""


def _bomb_of_lists(levels: int = 9) -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


def _bomb_of_maps(levels: int = 9) -> bytes:
    lines = ["a0: &a0 {k: x}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, levels)]
    return "\n".join(lines).encode()


def _bomb_of_merges(levels: int = 12) -> bytes:
    lines = ["a0: &a0 {k0: x}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 5)}], k{n}: x}}" for n in range(1, levels)]
    return "\n".join(lines).encode()


def _chain(levels: int) -> bytes:
    return ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, levels))).encode()


def _anchors(count: int) -> bytes:
    return "".join(f"a{n}: &a{n} x\n" for n in range(count)).encode()


def _instances(count: int) -> bytes:
    text = "instances:\n"
    return (
        text + "".join(f"  i{n}: {{backend_type: fake, backend_options: {{model: m}}}}\n" for n in range(count))
    ).encode()


CASES: Mapping[str, Case] = {
    "billion laughs, lists": Case(data=_bomb_of_lists(), code=COMPLEX, says="expand", seconds=0.1),
    "billion laughs, seven levels": Case(data=_bomb_of_lists(7), code=COMPLEX, says="expand", seconds=0.1),
    "billion laughs, maps": Case(data=_bomb_of_maps(), code=COMPLEX, says="expand", seconds=0.1),
    "merge-key bomb": Case(data=_bomb_of_merges(), code=COMPLEX, says="expand", seconds=0.1),
    "aliases nested deeper than the text": Case(data=_chain(60), code=COMPLEX, says="deeper", seconds=0.1),
    "more aliases than allowed": Case(
        data=b"a: &a x\nb: [" + b", ".join([b"*a"] * 201) + b"]", code=COMPLEX, place=(2, 805), says="200 aliases"
    ),
    "a list that contains itself": Case(data=b"a: &a [*a]", code=COMPLEX, place=(1, 8), says="contains itself"),
    "a mapping that merges itself": Case(data=b"a: &a {<<: *a}", code=COMPLEX, place=(1, 12), says="contains itself"),
    "an alias to nothing": Case(data=b"a: *nobody", code=INVALID, place=(1, 4), says="*nobody"),
    "duplicate key": Case(data=b"a: 1\nb: 2\na: 3\n", code=INVALID, place=(3, 1), says="`a` is given twice"),
    "duplicate key in a flow mapping": Case(
        data=b"a: {b: 1, b: 2}", code=INVALID, place=(1, 11), says="`b` is given twice"
    ),
    "words that YAML 1.1 took for booleans": Case(
        data=b"a: [yes, no, on, off, y, NO]", value={"a": ["yes", "no", "on", "off", "y", "NO"]}
    ),
    "true and nothing": Case(
        data=b"a: [true, False, ~, null, '', \"\"]\nb:\n", value={"a": [True, False, None, None, "", ""], "b": None}
    ),
    "a YAML 1.1 directive": Case(data=b"%YAML 1.1\n---\na: yes\n", code=INVALID, place=(1, 1), says="%YAML 1.1"),
    "a YAML 2.0 directive": Case(data=b"%YAML 2.0\n---\na: yes\n", code=INVALID),
    "a YAML 1.2 directive": Case(data=b"%YAML 1.2\n---\na: yes\n", value={"a": "yes"}),
    "a TAG directive": Case(data=b"%TAG !e! tag:x,2000:\n---\na: 1\n", code=INVALID, place=(1, 1), says="%TAG"),
    "numbers by YAML 1.2": Case(
        data=b"a: [010, 08, 0o10, 0x1F, 12:30:45, 1.10, 1e3, -5, +5, .5]",
        value={"a": [10, 8, 8, 31, "12:30:45", 1.1, 1000.0, -5, 5, 0.5]},
    ),
    "underscores make text": Case(data=b"a: 1_000", value={"a": "1_000"}),
    "integer of 5,000 digits": Case(data=b"a: " + b"9" * 5000, code=INVALID, place=(1, 4), says="64 bits"),
    "integer of 4,300 digits": Case(data=b"a: " + b"9" * 4300, code=INVALID, place=(1, 4), says="64 bits"),
    "integer of 65 bits": Case(data=b"a: 9223372036854775808", code=INVALID, place=(1, 4), says="64 bits"),
    "integer of 64 bits": Case(
        data=b"a: [9223372036854775807, -9223372036854775808]", value={"a": [2**63 - 1, -(2**63)]}
    ),
    "a float beyond the largest": Case(data=b"a: 1e999", code=INVALID, place=(1, 4), says="too large"),
    "infinity": Case(data=b"a: -.inf", code=INVALID, place=(1, 4), says="-.inf"),
    "not a number": Case(data=b"a: .nan", code=INVALID, place=(1, 4), says=".nan"),
    "a date": Case(data=b"x: 1\na: 2024-01-31", code=INVALID, place=(2, 4), says="dates"),
    "a time": Case(data=b"a: 2024-01-31T10:00:00Z", code=INVALID, place=(1, 4), says="dates"),
    "a date in quotes": Case(data=b"a: '2024-01-31'", value={"a": "2024-01-31"}),
    "indented with a tab": Case(data=b"a:\n\tb: 1\n", code=INVALID, place=(2, 1), says="tab"),
    "a tab before a comment": Case(data=b"a: 1\t# c\n", code=INVALID, place=(1, 5), says="tab"),
    "UTF-8 with its mark": Case(data=b"\xef\xbb\xbfa: \xc3\xbc", value={"a": "ü"}),
    "UTF-16": Case(data="a: ü".encode("utf-16"), value={"a": "ü"}),
    "CRLF": Case(data=b"a: 1\r\nb: 2\r\n", value={"a": 1, "b": 2}),
    "CR alone": Case(data=b"a: 1\rb: 2\r", value={"a": 1, "b": 2}),
    "a NUL": Case(data=b"a: x\0y", code=INVALID, place=(1, 5), says="NUL"),
    "NUL padding": Case(data=b"a: 1\n" + b"\0" * 512, code=INVALID, place=(2, 1), says="NUL"),
    "a control character": Case(data=b"a: 1\nb: \x1b[31m", code=INVALID, place=(2, 4), says="U+001B"),
    "an escaped NUL": Case(data=b'a: "x\\0y"', code=INVALID, place=(1, 4), says="NUL"),
    "an escaped bell": Case(data=b'a: "\\a"', code=INVALID, place=(1, 4), says="U+0007"),
    "invalid UTF-8": Case(data=b"a: 1\nb: \xff\xfe", code=INVALID, place=(2, 4), says="UTF-8"),
    "latin-1": Case(data="a: für".encode("latin-1"), code=INVALID, place=(1, 5), says="UTF-8"),
    "a lone surrogate": Case(data=b'a: "\\ud800"', code=INVALID, place=(1, 4), says="surrogate"),
    "a pair of surrogates, as JSON writes it": Case(data=b'{"a": "\\ud83d\\ude00"}', value={"a": "\U0001f600"}),
    "200 nested lists": Case(data=b"[" * 200 + b"]" * 200, code=COMPLEX, place=(1, 41), says="40 levels"),
    "1,000 open brackets": Case(data=b"a: " + b"[" * 1000, code=COMPLEX, says="40 levels"),
    "100,000 open brackets": Case(data=b"a: " + b"[" * 100_000, code=COMPLEX, says="40 levels"),
    "100,000 open braces": Case(data=b"a: " + b"{" * 100_000, code=COMPLEX, says="40 levels"),
    "500 dashes": Case(data=b"a:\n " + b"- " * 500 + b"x", code=COMPLEX, says="40 levels"),
    "1,500 nested maps": Case(
        data="".join(f"{' ' * n}k:\n" for n in range(1400)).encode(), code=COMPLEX, place=(40, 40), says="40 levels"
    ),
    "a python tag": Case(data=b"a: !!python/object/apply:os.system [id]", code=INVALID, place=(1, 4), says="tags"),
    "an unknown tag": Case(data=b"a: !foo x", code=INVALID, place=(1, 4), says="tags"),
    "binary": Case(data=b"a: !!binary aGVsbG8=", code=INVALID, place=(1, 4), says="tags"),
    "a list as key": Case(data=b"? [a, b]\n: 1\n", code=INVALID, place=(1, 3), says="key"),
    "a mapping as key": Case(data=b"? {a: b}\n: 1\n", code=INVALID, place=(1, 3), says="key"),
    "a number as key": Case(data=b"a:\n  1: x\n", code=INVALID, place=(2, 3), says="a key must be text"),
    "nothing as key": Case(data=b"a: 1\n: x\n", code=INVALID, place=(2, 1), says="a key must be text"),
    "two documents": Case(data=b"a: 1\n---\nb: 2\n", code=INVALID, place=(2, 1), says="second document"),
    "text after the document": Case(data=b"a: 1\n...\nb: 2\n", code=INVALID, place=(3, 1), says="second document"),
    "an empty file": Case(data=b"", code=EMPTY, place=(1, 1), says="`instances: {}`"),
    "only comments": Case(data=b"# nothing\n\n# here\n", code=EMPTY, place=(1, 1), says="`instances: {}`"),
    "only a document start": Case(data=b"---\n", code=EMPTY, place=(1, 1), says="`instances: {}`"),
    "only null": Case(data=b"null\n", code=EMPTY, says="`instances: {}`"),
    "a list as the whole file": Case(data=b"- a\n- b\n", code=INVALID, place=(1, 1), says="mapping"),
    "a word as the whole file": Case(data=b"hello\n", code=INVALID, place=(1, 1), says="mapping"),
    "20,000 anchors": Case(data=_anchors(20_000), code=COMPLEX, says="20,000 values", seconds=5.0),
    "a flood of nodes": Case(data=b"a: [" + b"1," * 400_000 + b"1]", code=COMPLEX, says="20,000 values", seconds=5.0),
    "a flood of instances": Case(data=_instances(15_000), code=COMPLEX, says="20,000 values", seconds=5.0),
    "a tag of a megabyte": Case(data=b"a: " + b"!" * 1_000_000, code=INVALID, place=(1, 4), says="tags"),
    "a flood of tags": Case(data=b"a: [" + b"!x 1," * 20_000 + b"1]", code=INVALID, place=(1, 5), says="tags"),
    "a flood of duplicates": Case(data=b"{" + b"a, " * 20_000 + b"}", code=INVALID, place=(1, 5), says="given twice"),
    "a quote that is never closed": Case(data=b'a: 1\nb: "x\nc: 2\n', code=INVALID, place=(2, 4), says="quote"),
    "a bracket that is never closed": Case(data=b"a: [1, 2\nb: 3\n", code=INVALID, says="bracket"),
    "a second colon": Case(data=b"a: b: c\n", code=INVALID, place=(1, 5), says="second `:`"),
    "an indentation that fits nothing": Case(data=b"a:\n    b: 1\n  c: 2\n", code=INVALID, place=(3, 3)),
}


def _most_memory() -> int:
    """The largest resident size of this program so far, bytes. Linux's ``ru_maxrss`` would include the parent's before exec."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    """Load every case, print what came of it and how much memory the whole of it took."""
    from reconciler.config._parse import parse
    from reconciler.config._tree import plain
    from reconciler.core.errors import Problem, Rejected

    parse(b"a: 1", name="warm")
    before = _most_memory()
    results: dict[str, object] = {}
    for name, case in CASES.items():
        started = time.process_time()
        found: tuple[Problem, ...] = ()
        value: JsonValue = None
        try:
            document = parse(case.data, name="f.yaml")
            found = document.problems
            value = plain(document.root)
        except Rejected as refusal:
            found = refusal.problems
        seconds = time.process_time() - started
        told = [[problem.code, problem.line, problem.column, problem.message, problem.hint] for problem in found]
        results[name] = {"seconds": seconds, "problems": told, "value": value}
    print(json.dumps({"grown": _most_memory() - before, "results": results}))  # noqa: T201 - this program's output is its interface


if __name__ == "__main__":
    main()
