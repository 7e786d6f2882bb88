"""``POST /api/v1/backends/{route}/parse-command``: a pasted command line, understood and written as YAML. Nothing is ever executed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import hdrs, web

from reconciler.config.document import snippet
from reconciler.core.contracts import Backend
from reconciler.core.errors import Problem, Rejected
from reconciler.proxy.refusals import Refusal
from reconciler.server.control import Control
from reconciler.server.problems import PlacedRefusal, bad_request
from reconciler.server.requests import read_object

YAML_TYPE = "application/yaml"
AT_ONCE = 4096
"""Characters of a command that is read without a thread: forty flags have 1,500 and take 0.3 ms, 4 KiB of garbage 5 ms."""


class ParseCommand:
    """The route's handler."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Refusal 400 with the position of what cannot be understood."""
        backend = _backend(self._control.backends, request.match_info["route"])
        body = await read_object(request, self._control.clock)
        command = body.get("command")
        if not isinstance(command, str) or set(body) != {"command"}:
            raise bad_request(
                Problem(
                    message='the body must be {"command": "..."}, with a text and nothing else', code="JSON_INVALID"
                )
            )
        try:
            if len(command) <= AT_ONCE:
                parsed = backend.parse(command)
            else:  # pure, but a pasted page takes a while: others should not wait for it
                parsed = await asyncio.to_thread(backend.parse, command)
        except Rejected as rejected:
            raise PlacedRefusal(400, rejected.problems, code="command_not_understood") from None
        yaml = snippet(parsed.name, parsed.instance())
        if _prefers_yaml(request.headers.get(hdrs.ACCEPT, "")):
            return web.Response(body=yaml.encode(), content_type=YAML_TYPE)
        return web.json_response(parsed.as_json(yaml=yaml))


def _backend(backends: Mapping[str, Backend], route: str) -> Backend:
    known = {name: backend for backend in backends.values() for name in backend.parse_routes}
    if route not in known:
        raise Refusal(404, f"there is no parser {route}; there are {', '.join(sorted(known))}", code="not_found")
    return known[route]


def _prefers_yaml(accept: str) -> bool:
    """YAML is named and stands before JSON; a weight of zero means no."""
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        if any(parameter in ("q=0", "q=0.0") for parameter in parameters):
            continue
        if kind in (YAML_TYPE, "application/x-yaml", "text/yaml"):
            return True
        if kind == "application/json":
            return False
    return False
