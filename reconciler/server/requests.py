"""Reading what management requests send: bounded bodies, JSON objects with the place of what is wrong, query parameters."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aiohttp import web
from pydantic import JsonValue

from reconciler.core.errors import Problem
from reconciler.host.clock import Clock
from reconciler.proxy.intake import Budget, HeldBody, read_body
from reconciler.server.front import MANAGEMENT_BODY
from reconciler.server.problems import bad_request

_BUDGET = Budget(64 * MANAGEMENT_BODY)

MAX_DEPTH = 37
"""Levels of nesting inside an instance: the file takes 40, and three of them are above an instance's settings."""
MAX_VALUES = 20_000
"""Values and keys of one instance: as many as the whole file takes."""
_NOT_IN_A_FILE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
"""Characters that the file takes in no string: line breaks and tabs are fine, other control characters and lone surrogates are not."""
_LONGEST_NAME = 100
"""Characters of one key that a message repeats."""
_INT64 = range(-(2**63), 2**63)


async def read_bytes(request: web.Request, clock: Clock) -> bytes:
    """The body, 1 MiB at most; Refusal 413, 408 or 400."""
    with HeldBody(_BUDGET) as body:
        await read_body(request, body, limit=MANAGEMENT_BODY, clock=clock)
        return bytes(body.data)


async def read_object(request: web.Request, clock: Clock) -> Mapping[str, JsonValue]:
    """The body as a JSON object; Refusal 400 with line and column. A key given twice is refused, as it is in the file."""
    data = await read_bytes(request, clock)
    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except json.JSONDecodeError as error:
        problem = Problem(
            message=f"the body is not valid JSON: {error.msg}",
            line=error.lineno,
            column=error.colno,
            code="JSON_INVALID",
        )
        raise bad_request(problem) from None
    except UnicodeDecodeError as error:
        raise bad_request(Problem(message=f"the body is not UTF-8 (byte {error.start})", code="JSON_INVALID")) from None
    except RecursionError:
        raise bad_request(Problem(message="the body is nested too deeply", code="JSON_INVALID")) from None
    except ValueError as error:  # a key twice, NaN, an integer of thousands of digits
        raise bad_request(Problem(message=f"the body is not valid JSON: {error}", code="JSON_INVALID")) from None
    if not isinstance(value, dict):
        raise bad_request(Problem(message="the body must be a JSON object", line=1, column=1, code="JSON_INVALID"))
    return value


async def read_instance(request: web.Request, clock: Clock) -> Mapping[str, JsonValue]:
    """The body as settings of an instance; Refusal 400 with the path of a value that no file of ours can hold."""
    body = await read_object(request, clock)
    for number, (step, value) in enumerate(_walk(body)):
        many = number > MAX_VALUES
        why = f"it has more than {MAX_VALUES:,} values" if many else _unfit(value, step.depth)
        if why is not None:
            path = "" if many else step.path()
            message = f"{path}: {why}" if path else why
            raise bad_request(Problem(message=message, path=path, code="JSON_INVALID"))
    return body


@dataclass(frozen=True, slots=True)
class _Step:
    """A place in a body. Its path is spelled out for a message only: long keys above many values would take all memory."""

    above: _Step | None
    name: str
    depth: int

    def path(self) -> str:
        names = []
        step: _Step | None = self
        while step is not None:
            names.append(step.name[:_LONGEST_NAME])
            step = step.above
        return "".join(reversed(names)).removeprefix(".")


def _walk(body: Mapping[str, JsonValue]) -> Iterator[tuple[_Step, JsonValue]]:
    """Every key (at the place of its mapping) and value, in order and without recursion."""
    stack: list[tuple[_Step, JsonValue]] = [(_Step(None, "", 0), dict(body))]
    while stack:
        step, value = stack.pop()
        yield step, value
        inner: list[tuple[_Step, JsonValue]] = []
        if isinstance(value, dict):
            for key in value:
                yield step, key
            inner = [(_Step(step, f".{key}", step.depth + 1), each) for key, each in value.items()]
        elif isinstance(value, list):
            inner = [(_Step(step, f"[{index}]", step.depth + 1), each) for index, each in enumerate(value)]
        stack.extend(reversed(inner))


def _unfit(value: JsonValue, depth: int) -> str | None:
    """Why a file cannot hold this value; None when it can."""
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, str):
        found = _NOT_IN_A_FILE.search(value)
        return None if found is None else f"a string holds U+{ord(found[0]):04X}, which no configuration file can hold"
    if isinstance(value, float) and not math.isfinite(value):
        return "this number is too large: use a finite number"
    if isinstance(value, int) and value not in _INT64:
        return "this integer needs more than 64 bits: quote it if it is text"
    return None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # set.add is None
        raise ValueError(f"the key {json.dumps(twice)} is given twice")
    return result


def _constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def flag(request: web.Request, name: str) -> bool:
    """A query parameter that is given as ``1``, ``true`` or empty; Refusal 400 for another value."""
    value = request.query.get(name)
    if value is None or value.lower() in ("0", "false"):
        return False
    if value.lower() in ("", "1", "true"):
        return True
    raise bad_request(Problem(message=f"?{name}= takes 1 or 0, not {value[:40]!r}", code="QUERY_INVALID"))


def count(request: web.Request, name: str, *, most: int) -> int | None:
    """A query parameter that is a number from 0 to ``most``; None when it is not given, Refusal 400 for anything else."""
    value = request.query.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) <= most):  # digits of `most`
        raise bad_request(
            Problem(message=f"?{name}= takes a number from 0 to {most}, not {value[:40]!r}", code="QUERY_INVALID")
        )
    return int(value)
