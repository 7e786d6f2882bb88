"""`llama-server`: 503 on every route while loading, any model name will do, waits for its clients on SIGTERM."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

from aiohttp import web

from reconciler.simulator.openai import BadRequest, Endpoint, decode, token_ids
from reconciler.simulator.personality import Personality, StopManner, bearer, is_one_of, peer_of, prometheus

PUBLIC = frozenset({"/health", "/v1/health", "/models", "/v1/models", "/api/tags", "/"})
"""Routes that never want a key."""

SLOTS = 4
"""How many requests it says it works on at a time."""

_ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


class LlamaCpp(Personality):
    """llama.cpp's HTTP server with one model."""

    listens_while_loading: ClassVar[bool] = True
    headers_before_first_token: ClassVar[bool] = False
    stop_manner: ClassVar[StopManner] = "wait_for_clients"

    inference: Mapping[str, Endpoint] = {
        "/v1/chat/completions": "chat",
        "/chat/completions": "chat",
        "/v1/completions": "completion",
        "/v1/embeddings": "embedding",
    }

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        keys = self.options.api_keys
        if keys and request.path not in PUBLIC and request.method != "OPTIONS":
            given = bearer(request) or request.headers.get("X-Api-Key")
            if not is_one_of(given, keys):
                return self.error(401, "Invalid API Key")
        if not self.engine.loaded.is_set():
            return self.error(503, "Loading model")
        return None

    async def side_route(self, request: web.BaseRequest) -> web.Response:
        match request.path, request.method:
            case "/health" | "/v1/health", "GET":
                return web.json_response({"status": "ok"})
            case "/models" | "/v1/models", "GET":
                return web.json_response({"object": "list", "data": self.model_entries("llamacpp")})
            case "/props", "GET":
                return web.json_response(
                    {
                        "total_slots": SLOTS,
                        "model_path": self.options.model,
                        "model_alias": self.options.names[0],
                        "build_info": "simulated",
                    }
                )
            case "/slots", "GET":
                busy = self.engine.counts.in_flight
                return web.json_response([{"id": slot, "is_processing": slot < busy} for slot in range(SLOTS)])
            case "/metrics", "GET":
                return self._metrics()
            case "/tokenize", "POST":
                return await self._tokenize(request)
            case _:
                return self.error(404, "File Not Found")

    def _metrics(self) -> web.Response:
        if not self.options.metrics:
            return self.error(501, "This server does not support metrics endpoint. Start it with `--metrics`")
        counts = self.engine.counts
        return prometheus(
            [
                ("llamacpp:prompt_tokens_total", "counter", "", counts.prompt_tokens),
                ("llamacpp:tokens_predicted_total", "counter", "", counts.tokens),
                ("llamacpp:requests_processing", "gauge", "", min(counts.in_flight, SLOTS)),
                ("llamacpp:requests_deferred", "gauge", "", max(0, counts.in_flight - SLOTS)),
            ]
        )

    async def _tokenize(self, request: web.BaseRequest) -> web.Response:
        try:
            content = decode("", await request.read(), endpoint="completion").get("content", "")
        except BadRequest as error:
            return self.error(400, str(error))
        return web.json_response({"tokens": token_ids(content if isinstance(content, str) else "")})

    def error(self, status: int, message: str, *, param: str | None = None) -> web.Response:
        del param
        kind = _ERROR_TYPES.get(status, "server_error")
        return web.json_response({"error": {"code": status, "message": message, "type": kind}}, status=status)

    def unknown_model(self, model: str) -> web.Response | None:
        """Every name is served by the one model."""
        del model
        return None

    def starting_lines(self) -> Sequence[str]:
        return (
            f"system info: n_threads = 2, total_threads = {os.cpu_count()} (simulated)",
            f"main: loading model '{self.options.model}'",
            f"srv    load_model: loading model '{self.options.model}'",
        )

    def ready_lines(self) -> Sequence[str]:
        return ("main: model loaded", "srv  update_slots: all slots are idle")

    def failure_line(self) -> str:
        return (
            f"srv    load_model: failed to load model, '{self.options.model}'\nmain: exiting due to model loading error"
        )

    def access_line(self, request: web.BaseRequest, status: int) -> str:
        host = peer_of(request).rpartition(":")[0]
        return f"srv  log_server_r: request: {request.method} {request.path} {host} {status}"
