"""Reading what management requests send: bounded bodies, JSON objects with the place of what is wrong, query parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web
from pydantic import JsonValue

from reconciler.core.errors import Problem
from reconciler.host.clock import Clock
from reconciler.proxy.intake import Budget, HeldBody, read_body
from reconciler.server.front import MANAGEMENT_BODY
from reconciler.server.problems import bad_request

_BUDGET = Budget(64 * MANAGEMENT_BODY)


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
