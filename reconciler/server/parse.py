"""``POST /api/v1/backends/{route}/parse-command``: a pasted command line, understood and written as YAML. Nothing is ever executed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence

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
            programs = self._control.programs
            if len(command) <= AT_ONCE:
                parsed = backend.parse(command, programs)
            else:  # pure, but a pasted page takes a while: others should not wait for it
                parsed = await asyncio.to_thread(backend.parse, command, programs)
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
    """YAML is named, with more weight than JSON or with the same and before it (RFC 9110, section 12.5.1)."""
    best: tuple[float, bool] = (0.0, False)
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        yaml = kind in (YAML_TYPE, "application/x-yaml", "text/yaml")
        weight = _weight(parameters)
        if (yaml or kind == "application/json") and weight > best[0]:
            best = (weight, yaml)
    return best[1]


def _weight(parameters: Sequence[str]) -> float:
    """0 to 1; 1 where none is given, 0 for one that cannot be read."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            number = re.fullmatch(r"[01](?:\.\d{0,3})?", value.strip())
            return min(float(number[0]), 1.0) if number else 0.0
    return 1.0
