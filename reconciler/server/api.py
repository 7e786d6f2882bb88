"""The management routes: what is, and what is to be changed. Thin: the controller decides, this room reads and writes HTTP.

A change edits the file, so every handler here is one call of the controller and one answer.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from reconciler.core.errors import Problem
from reconciler.proxy.refusals import Refusal
from reconciler.server.control import Control
from reconciler.server.problems import answer, bad_request
from reconciler.server.requests import read_bytes, read_instance

YAML_TYPE = "application/yaml"


def _name(request: web.Request) -> str:
    return request.match_info["name"]


class Api:
    """Handlers over one controller."""

    def __init__(self, control: Control) -> None:
        self._control = control

    # ---- reading ------------------------------------------------------------------------------------------------

    async def alive(self, request: web.Request) -> web.Response:
        """``/health`` and ``/livez``: this process answers."""
        del request
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """``/readyz``: every ``running`` instance is ready, else 503 naming those that are not."""
        ready, waiting = self._control.ready_report()
        if ready:
            return web.json_response({"status": "ready", "not_ready": []})
        why = f"not ready: {', '.join(waiting)}" if waiting else "the daemon is starting or stopping"
        return answer(request.path, Refusal(503, why, code="not_ready", retry_after=2), {"not_ready": waiting})

    async def status(self, request: web.Request) -> web.Response:
        """``GET /api/v1/status``."""
        del request
        pending = await self._control.file_pending()  # asked first: what was saved before it says no is in the status
        status = self._control.status()
        config = status["config"]
        assert isinstance(config, dict)
        return web.json_response({**status, "config": {**config, "pending": pending}})

    async def instances(self, request: web.Request) -> web.Response:
        """``GET /api/v1/instances``."""
        del request
        return web.json_response({"instances": self._control.status()["instances"]})

    async def instance(self, request: web.Request) -> web.Response:
        """``GET /api/v1/instances/{name}``."""
        return web.json_response(self._control.instance(_name(request)))

    # ---- changing -----------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        """``POST /api/v1/instances/{name}``."""
        body = await read_instance(request, self._control.clock)
        made = await self._control.create(_name(request), body)
        return web.json_response(made, status=201, headers={hdrs.LOCATION: request.rel_url.raw_path})

    async def replace(self, request: web.Request) -> web.Response:
        """``PUT /api/v1/instances/{name}``."""
        body = await read_instance(request, self._control.clock)
        return web.json_response(await self._control.replace(_name(request), body))

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /api/v1/instances/{name}``."""
        await self._nothing(request)
        return web.json_response(await self._control.delete(_name(request)))

    async def start(self, request: web.Request) -> web.Response:
        """``POST .../start``: ``enabled: true`` in the file."""
        await self._nothing(request)
        return web.json_response(await self._control.set_enabled(_name(request), True))

    async def stop(self, request: web.Request) -> web.Response:
        """``POST .../stop``: ``enabled: false`` in the file."""
        await self._nothing(request)
        return web.json_response(await self._control.set_enabled(_name(request), False))

    async def restart(self, request: web.Request) -> web.Response:
        """``POST .../restart``: the running processes are replaced."""
        await self._nothing(request)
        return web.json_response(await self._control.restart(_name(request)))

    async def down(self, request: web.Request) -> web.Response:
        """``POST /api/v1/down``: everything stops, then the daemon."""
        await self._nothing(request)
        return web.json_response({"stopping": self._control.begin_down()}, status=202)

    # ---- the file -----------------------------------------------------------------------------------------------

    async def plan(self, request: web.Request) -> web.Response:
        """``POST /api/v1/plan``: what the sent file, or without a body the daemon's own, would change."""
        text = await read_bytes(request, self._control.clock)
        return web.json_response(await self._control.plan(text or None))

    async def config(self, request: web.Request) -> web.Response:
        """``GET /api/v1/config``: the file's text; 304 when the client has it."""
        text, etag = await self._control.config()
        headers = {hdrs.ETAG: f'"{etag}"', hdrs.CACHE_CONTROL: "no-cache"}
        wanted = request.if_none_match
        if wanted is not None and any(tag.value in (etag, "*") for tag in wanted):
            return web.Response(status=304, headers=headers)
        return web.Response(body=text, content_type=YAML_TYPE, headers=headers)

    async def apply(self, request: web.Request) -> web.Response:
        """``PUT /api/v1/config``: the text becomes the file; ``If-Match`` makes sure nobody changed it meanwhile."""
        text = await read_bytes(request, self._control.clock)
        if not text.strip():
            raise bad_request(
                Problem(
                    message="the body is empty",
                    hint="send the whole file; `instances: {}` means none",
                    code="CONFIG_EMPTY",
                )
            )
        done = await self._control.apply(text, if_match=await self._wanted_etag(request))
        return web.json_response(done, headers={hdrs.ETAG: f'"{done["etag"]}"'} if "etag" in done else None)

    async def _wanted_etag(self, request: web.Request) -> str | None:
        """The one tag to insist on; None for no demand. A list means any of them, ``*`` any file at all."""
        if hdrs.IF_MATCH not in request.headers:
            return None
        tags = [tag.value for tag in request.if_match or () if not tag.is_weak]
        if "*" in tags:
            return None
        if len(tags) == 1:
            return tags[0]
        _, etag = await self._control.config()
        if etag in tags:
            return etag
        raise Refusal(412, "the file is not the one that If-Match names; read it again", code="precondition_failed")

    async def _nothing(self, request: web.Request) -> None:
        """A route without a body: one that is sent is read, so that the connection can go on, and must be an empty object."""
        if request.body_exists and (await read_bytes(request, self._control.clock)).strip() not in (b"", b"{}"):
            raise bad_request(Problem(message="this route takes no body", code="JSON_INVALID"))
