"""One request from a client to a replica and back: intake, routing, waiting, at most one retry, relay.

This is the path for every kind of request. It keeps nothing between requests but the connection pool and the balancer's turn.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType

import aiohttp
from aiohttp import hdrs, web

from reconciler.control.leases import Lease
from reconciler.control.routes import Target
from reconciler.proxy.auth import Grant
from reconciler.proxy.body import ModelField, find_json_model, splice
from reconciler.proxy.client import BadAnswer, Client, Died, Outgoing, Silent, Unreached, UpstreamError
from reconciler.proxy.headers import for_backend
from reconciler.proxy.intake import Budget, HeldBody, read_body
from reconciler.proxy.multipart import find_form_model
from reconciler.proxy.refusals import Refusal
from reconciler.proxy.relay import relay
from reconciler.proxy.routing import Balancer, Resolved, resolve
from reconciler.proxy.waiting import gone, ready_route, unavailable
from reconciler.proxy.world import World

logger = logging.getLogger(__name__)

BIG_BODY = 1024 * 1024
"""From this size on, bytes, the model is looked for in a thread: a scan takes 1 ms per few MB, and others should not wait for it."""


class Proxy:
    """The data path; an async context manager around its connection pool."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._client = Client()
        self._balancer = Balancer(world.leases)
        self._budget = Budget()

    async def __aenter__(self) -> Proxy:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def infer(self, request: web.BaseRequest, grant: Grant) -> web.StreamResponse:
        """Any request under ``/v1``: routed by the ``model`` of its JSON or form, or of its query where there is none."""
        _refuse_upgrade(request)
        with HeldBody(self._budget) as body:
            limit = self._world.routes.server.max_body_size
            await read_body(request, body, limit=limit, clock=self._world.clock)
            field = await _find_model(request, body)
            name = field.value if field is not None else request.query.get("model")
            if name is None:
                raise Refusal(
                    400,
                    "no `model`: name it in the JSON body or form, or as ?model=NAME for a request without one",
                    code="model_missing",
                    param="model",
                )
            resolved = resolve(self._world.routes, name, grant)
            return await self._serve(request, resolved, request.raw_path, body=body, field=field)

    async def raw(self, request: web.BaseRequest, instance: str, target: str) -> web.StreamResponse:
        """A request to one instance's own route ``target`` (path and query), body as is. It never starts or waits for anything."""
        _refuse_upgrade(request)
        route = self._world.routes.by_instance.get(instance)
        if route is None:
            raise Refusal(404, f"there is no instance {instance}", code="not_found")
        if not route.targets:
            raise unavailable(route)
        with HeldBody(self._budget) as body:
            limit = self._world.routes.server.max_body_size
            await read_body(request, body, limit=limit, clock=self._world.clock)
            resolved = Resolved(instance=instance, served=None, asked=instance)
            return await self._serve(request, resolved, target, body=body, field=None)

    async def _serve(
        self, request: web.BaseRequest, resolved: Resolved, target: str, *, body: HeldBody, field: ModelField | None
    ) -> web.StreamResponse:
        """Try replicas until one begins to answer: all that refuse the connection, one more after one that died on us."""
        world = self._world
        route = await ready_route(world, resolved.instance)
        chosen = self._balancer.choose(route, resolved)
        avoid: set[str] = set()
        died = False
        failure: UpstreamError | None = None
        while chosen is not None:
            with world.leases.hold(resolved.instance, chosen.key) as lease:
                try:
                    answer = await self._send(
                        request, chosen, _outgoing(request, resolved, chosen, target, body, field)
                    )
                except Unreached as error:
                    _log(lease, error)
                    failure = error
                except Died as error:
                    _log(lease, error)
                    failure = error
                    if died:
                        break
                    died = True
                except (BadAnswer, Silent) as error:
                    _log(lease, error)
                    raise _refusal(resolved.instance, error) from None
                else:
                    return await self._answer(request, answer, lease, body)
            avoid.add(chosen.key)
            fresh = world.routes.by_instance.get(resolved.instance)
            if fresh is None:
                raise gone(resolved.instance)
            again = chosen if isinstance(failure, Died) and failure.reused else None
            chosen = self._balancer.choose(fresh, resolved, avoid=avoid) or again
        raise unavailable(route) if failure is None else _refusal(resolved.instance, failure)

    async def _send(self, request: web.BaseRequest, chosen: Target, outgoing: Outgoing) -> aiohttp.ClientResponse:
        return await self._client.open(chosen.endpoint, outgoing)

    async def _answer(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, lease: Lease, body: HeldBody
    ) -> web.StreamResponse:
        body.release()  # from here on there is no second try
        try:
            return await relay(request, answer, lease)
        except BadAnswer as error:
            _log(lease, error)
            raise _refusal(lease.instance, error) from None
        finally:
            answer.close()  # returns to the pool by itself when it was read to its end; cut off otherwise, at once


def _refuse_upgrade(request: web.BaseRequest) -> None:
    if "websocket" in request.headers.get(hdrs.UPGRADE, "").lower():
        raise Refusal(501, "WebSocket connections are not proxied; use the HTTP routes", code="not_implemented")


async def _find_model(request: web.BaseRequest, body: HeldBody) -> ModelField | None:
    if not body.data:
        return None
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        if "model" in request.query:
            return None
        raise Refusal(
            415,
            "a compressed body cannot be routed: send it plain, or name the model as ?model=NAME",
            code="unsupported_encoding",
        )
    kind = request.content_type
    if kind == "multipart/form-data":
        declared = request.headers.get(hdrs.CONTENT_TYPE, "")
        if len(body.data) >= BIG_BODY:
            return await asyncio.to_thread(find_form_model, body.data, declared)
        return find_form_model(body.data, declared)
    if kind == "application/json" or kind.endswith("+json") or body.data[:64].lstrip()[:1] == b"{":
        if len(body.data) >= BIG_BODY:
            return await asyncio.to_thread(find_json_model, body.data)
        return find_json_model(body.data)
    return None


def _outgoing(
    request: web.BaseRequest,
    resolved: Resolved,
    chosen: Target,
    target: str,
    body: HeldBody,
    field: ModelField | None,
) -> Outgoing:
    name = resolved.name_for(chosen)
    if field is not None and name is not None and name != field.value:
        parts = splice(body.data, field.spans, field.replacement(name))
    else:
        parts = [memoryview(body.data)] if body.data else []
    headers = for_backend(
        request.headers.items(),
        request.headers.getall(hdrs.CONNECTION, ()),
        endpoint=chosen.endpoint,
        peer=request.remote or "",
        host=request.headers.get(hdrs.HOST, ""),
    )
    return Outgoing(method=request.method, target=target, headers=headers, parts=parts)


def _log(lease: Lease, error: UpstreamError) -> None:
    logger.warning("%s on target %s: %s %r", lease.instance, lease.target[:8], type(error).__name__, str(error))


def _refusal(instance: str, error: UpstreamError) -> Refusal:
    """What the client is told; the details are in the log only."""
    if isinstance(error, Silent):
        return Refusal(504, f"{instance} did not begin to answer in time", code="backend_timeout")
    if isinstance(error, Unreached):
        return Refusal(502, f"{instance} cannot be reached", code="backend_unreachable", retry_after=5)
    if isinstance(error, Died):
        return Refusal(502, f"{instance} ended before it answered", code="backend_died", retry_after=5)
    return Refusal(502, f"{instance} gave an answer that is not valid HTTP", code="backend_bad_answer")
