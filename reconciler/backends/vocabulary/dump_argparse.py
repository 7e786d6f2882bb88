"""Prints what an argparse parser knows about its options, raw, as one line of JSON; run by the server's own interpreter.

Nothing of llamactl is there, so this is standard library for Python 3.9 and later. It judges nothing: what the facts mean is decided
by ``_reading_argparse``, which can be tested. The backend appends the call that builds its parser.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

MARK = "llamactl-options: "
"""Begins the one line that counts; whatever else a program prints while it is imported is not ours."""
DEEPEST = 6
"""Functions within functions that a converter is looked through."""


def plain(value: Any) -> Any:
    """The value as JSON data: enum members by value, sets sorted; raises TypeError or ValueError for what is none."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    json.dumps(value, allow_nan=False)
    return value


def data(value: Any) -> dict[str, Any]:
    """``{"is": data}`` for plain data, ``{"none": True}`` for argparse's "not at all", ``{"text": repr}`` for anything else."""
    if value is argparse.SUPPRESS:
        return {"none": True}
    try:
        return {"is": plain(value)}
    except (TypeError, ValueError, RecursionError, AttributeError):
        return {"text": type(value).__name__}


def choices(action: argparse.Action) -> list[Any] | None:
    """The choices that can be listed; None for none, and for a container that only answers ``in``."""
    if action.choices is None:
        return None
    try:
        listed = list(action.choices)
    except TypeError:
        return None
    found = [data(choice) for choice in listed]
    return [choice["is"] for choice in found if "is" in choice] if all("is" in choice for choice in found) else None


def converters(function: Any) -> list[str]:
    """Names of a ``type=`` and of every callable that it closes over, outermost first: ``_optional_type``, ``loads``."""
    names: list[str] = []
    level = [function]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for one in level:
            names.append(getattr(one, "__qualname__", type(one).__qualname__))
            if isinstance(one, type):
                names.extend(base.__qualname__ for base in one.__mro__[1:-1])
            elif isinstance(one, functools.partial):
                inner.append(one.func)
            else:
                cells = getattr(one, "__closure__", None) or ()
                inner.extend(value for value in map(held, cells) if callable(value))
        level = inner
    return names


def held(cell: Any) -> Any:
    """What a closure's cell holds; None for an empty one."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def lambda_text(function: Any) -> list[str]:
    """The names and constants in a lambda's code, for one such as ``lambda text: text.split(",")``."""
    code = getattr(function, "__code__", None)
    if code is None or getattr(function, "__name__", "") != "<lambda>":
        return []
    return [*code.co_names, *(constant for constant in code.co_consts if isinstance(constant, str))]


def facts(action: argparse.Action, group: str, deprecated: bool) -> dict[str, Any]:
    """Everything that an action says of itself."""
    return {
        "flags": list(action.option_strings),
        "dest": str(action.dest),
        "action": [base.__name__ for base in type(action).__mro__[:-1]],
        "nargs": action.nargs if isinstance(action.nargs, (int, str)) else None,
        "const": data(action.const),
        "default": data(action.default),
        "choices": choices(action),
        "guarded": action.choices is not None,
        "type": [] if action.type is None else converters(action.type),
        "lambda": lambda_text(action.type),
        "metavar": data(action.metavar).get("is"),
        "required": bool(action.required),
        "deprecated": deprecated,
        "hidden": action.help is argparse.SUPPRESS,
        "help": helped(action),
        "group": group,
    }


def helped(action: argparse.Action) -> str:
    """The help text with ``%(default)s`` and its like filled in; as it stands where that cannot be done."""
    text = action.help
    if not isinstance(text, str) or text is argparse.SUPPRESS:
        return ""
    names = {name: value for name, value in vars(action).items() if value is not argparse.SUPPRESS}
    try:
        return text % {**names, "prog": "", "type": getattr(action.type, "__name__", "")}
    except (KeyError, TypeError, ValueError):
        return text


def options(parser: argparse.ArgumentParser) -> Iterator[dict[str, Any]]:
    """The facts of every action, subcommands left out."""
    titles = {id(one): group.title or "" for group in parser._action_groups for one in group._group_actions}
    marked = getattr(parser, "_deprecated", ())
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            old = bool(getattr(action, "deprecated", False)) or (isinstance(marked, (set, list)) and action in marked)
            yield facts(action, titles.get(id(action), ""), old)


def first(*places: str) -> Any:
    """The first ``module:name`` that exists; raises ImportError with the last reason."""
    reason = ""
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            reason = str(error)
    raise ImportError(reason)


class _Caught(BaseException):
    """Carries a parser out of the program that built it, past every ``except Exception``."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def caught(place: str) -> argparse.ArgumentParser:
    """The parser that this ``module:function`` is about to parse with; the function goes no further."""
    function = first(place)

    def parse(self: argparse.ArgumentParser, *_: Any, **__: Any) -> Any:
        raise _Caught(self)

    argparse.ArgumentParser.parse_args = parse  # type: ignore[method-assign]  # the point is to replace it
    argparse.ArgumentParser.parse_known_args = parse  # type: ignore[method-assign]  # as above
    try:
        function()
    except _Caught as found:
        return found.parser
    raise ImportError(f"{place} ended without parsing its arguments")


def report(version: str, build: Callable[[], argparse.ArgumentParser], words: list[str]) -> None:
    """Print the line for the parser that ``build`` makes, and end; ``version`` is a ``module:name``, ``words`` become sys.argv."""
    own = os.dup(1)
    os.dup2(2, 1)
    sys.argv = words
    sys.path[:] = [place for place in sys.path if place]
    answer: dict[str, Any]
    try:
        parser = build()
        answer = {"version": str(first(version)), "options": list(options(parser))}
    except BaseException as error:  # noqa: BLE001 - a program may fail in any way, and the caller wants to know in which
        answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
    line = ("\n" + MARK + json.dumps(answer) + "\n").encode()
    while line:
        line = line[os.write(own, line) :]
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(0)  # what the import started must not keep it alive; a failure is an answer too
