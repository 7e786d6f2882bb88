"""`mlx_lm.server` 0.32: healthy before its model is loaded, HTTP/1.0, no keys, no metrics, dies at once on SIGTERM.

The real one loads any model that a request names, from the hub if need be; this one has no hub and says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from aiohttp import web

from reconciler.simulator.flags import DEFAULT_MODELS
from reconciler.simulator.openai import Endpoint
from reconciler.simulator.personality import Personality, StopManner, peer_of


class MlxLm(Personality):
    """mlx_lm's HTTP server."""

    listens_while_loading: ClassVar[bool] = True
    closes_after_each_answer: ClassVar[bool] = True
    headers_before_first_token: ClassVar[bool] = True
    progress_comments: ClassVar[bool] = True
    stop_manner: ClassVar[StopManner] = "signal_default"

    inference: Mapping[str, Endpoint] = {
        "/v1/chat/completions": "chat",
        "/chat/completions": "chat",
        "/v1/completions": "completion",
    }

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """It has no keys and never says that it is loading: completions wait."""
        del request
        return None

    async def side_route(self, request: web.BaseRequest) -> web.Response:
        match request.path, request.method:
            case "/health", "GET":
                return web.json_response({"status": "ok"})
            case "/v1/models", "GET":
                return web.json_response({"object": "list", "data": self.model_entries("mlx_lm")})
            case _:
                return web.Response(body=b"Not Found", status=404, headers={"Content-Type": "text/plain"})

    def error(self, status: int, message: str, *, param: str | None = None) -> web.Response:
        del param
        return web.json_response({"error": message}, status=status)

    def unknown_model(self, model: str) -> web.Response | None:
        if model in {self.options.model, DEFAULT_MODELS["mlx_lm"]}:
            return None
        return self.error(
            404,
            f"cannot load model {model!r} for this request: the real server would fetch it from the hub, the simulator "
            f"has only {self.options.model!r}; try that name",
        )

    def starting_lines(self) -> Sequence[str]:
        return (
            "UserWarning: mlx_lm.server is not recommended for production (simulated)",
            f"{_now()} - INFO - Starting httpd at {self.options.host} on port {self.options.port}...",
        )

    def ready_lines(self) -> Sequence[str]:
        return (f"{_now()} - INFO - Model {self.options.model} loaded. Application startup complete.",)

    def failure_line(self) -> str:
        return f"ValueError: Model {self.options.model} cannot be loaded (simulated)"

    def access_line(self, request: web.BaseRequest, status: int) -> str:
        host = peer_of(request).rpartition(":")[0]
        return f'{host} - - [{_now()}] "{request.method} {request.path_qs} HTTP/1.1" {status} -'


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
