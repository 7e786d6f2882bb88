"""The one table from failures to HTTP answers: RFC 9457 ``application/problem+json``, and OpenAI's shape under ``/v1``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import hdrs, web

from reconciler.control.edits import PreconditionFailed
from reconciler.core.errors import Conflict, LlamactlError, Missing, Problem, Rejected, Terminal, Transient
from reconciler.proxy.refusals import Refusal, openai_error

PROBLEM_TYPE = "application/problem+json"

TABLE: Sequence[tuple[type[LlamactlError], int, str]] = (
    (PreconditionFailed, 412, "precondition_failed"),
    (Rejected, 422, "invalid"),
    (Missing, 404, "not_found"),
    (Conflict, 409, "conflict"),
    (Transient, 503, "unavailable"),
    (Terminal, 422, "impossible"),
)
"""First match counts, so subclasses stand before their base."""

NOT_EDITABLE = "CONFIG_NOT_EDITABLE"
"""Problem code of a file that is valid but cannot be edited mechanically: the request is fine, the file's state is in its way."""


def speaks_openai(path: str) -> bool:
    """Whether errors of this route have OpenAI's shape."""
    return path == "/v1" or path.startswith("/v1/")


def bad_request(problem: Problem) -> Refusal:
    """400 for a request body or parameter that cannot be read, with its place."""
    return PlacedRefusal(400, (problem,), code="invalid_request")


class PlacedRefusal(Refusal):
    """A refusal with problems that have places."""

    def __init__(self, status: int, problems: Sequence[Problem], *, code: str) -> None:
        super().__init__(status, "; ".join(_sentence(problem) for problem in problems), code=code)
        self.problems = tuple(problems)


def _sentence(problem: Problem) -> str:
    place = f"line {problem.line}, column {problem.column}: " if problem.line is not None else ""
    return f"{place}{problem.message}" + (f" ({problem.hint})" if problem.hint else "")


def from_error(error: LlamactlError) -> Refusal:
    """The refusal that an error of ours stands for."""
    if isinstance(error, Refusal):
        return error
    found = ((status, code) for kind, status, code in TABLE if isinstance(error, kind))
    status, code = next(found, (500, "internal"))
    if isinstance(error, Rejected):
        if any(problem.code == NOT_EDITABLE for problem in error.problems):
            status, code = 409, "not_editable"
        return PlacedRefusal(status, error.problems, code=code)
    return Refusal(status, str(error), code=code, retry_after=5 if status == HTTPStatus.SERVICE_UNAVAILABLE else None)


def from_http(error: web.HTTPException) -> Refusal:
    """The refusal for aiohttp's own 404 and 405, ``Allow`` kept."""
    headers = {str(hdrs.ALLOW): error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else {}
    words = {
        404: ("there is nothing at this path", "not_found"),
        405: (f"this path takes {headers.get(hdrs.ALLOW, 'other methods')} only", "method_not_allowed"),
        417: ("the only Expect that is understood is 100-continue", "expectation_failed"),
    }
    message, code = words.get(error.status, (error.reason, "http_error"))
    return Refusal(error.status, message, code=code, headers=headers)


def answer(path: str, refusal: Refusal, extra: Mapping[str, object] | None = None) -> web.Response:
    """The response for a refusal, in the shape of the route."""
    if speaks_openai(path):
        body = openai_error(refusal.status, refusal.message, code=refusal.code, param=refusal.param)
        kind = "application/json"
    else:
        problems = refusal.problems if isinstance(refusal, PlacedRefusal) else ()
        body = {
            "type": "about:blank",
            "title": HTTPStatus(refusal.status).phrase,
            "status": refusal.status,
            "detail": refusal.message,
            "code": refusal.code,
            "problems": [problem.as_json() for problem in problems],
            **(extra or {}),
        }
        kind = PROBLEM_TYPE
    response = web.Response(
        status=refusal.status,
        body=json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"),
        headers=refusal.headers,
    )
    response.content_type = kind
    if refusal.close:
        response.force_close()
    return response
