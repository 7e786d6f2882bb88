"""`vllm serve` 0.32: refuses its port until loaded, guards `/v1` alone, sleeps when asked, cuts streams on SIGTERM."""

from __future__ import annotations

import asyncio
import http
import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

from aiohttp import web

from reconciler.simulator.openai import BadRequest, Body, Endpoint, answer_for, decode, token_ids
from reconciler.simulator.personality import Personality, StopManner, bearer, is_one_of, peer_of, prometheus

VERSION = "0.32.0"
MAX_MODEL_LEN = 32_768
SLEEP_S = 0.05
"""How long falling asleep and waking take; the real times depend on the model's size."""


class Vllm(Personality):
    """vLLM's OpenAI server."""

    listens_while_loading: ClassVar[bool] = False
    headers_before_first_token: ClassVar[bool] = True
    stop_manner: ClassVar[StopManner] = "cut"
    asleep = False

    inference: Mapping[str, Endpoint] = {
        "/v1/chat/completions": "chat",
        "/v1/completions": "completion",
        "/v1/embeddings": "embedding",
        "/v1/audio/transcriptions": "transcription",
    }

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        guarded = request.path.startswith("/v1") and request.method != "OPTIONS"
        if self.options.api_keys and guarded and not is_one_of(bearer(request), self.options.api_keys):
            return web.json_response({"error": "Unauthorized"}, status=401)
        return None

    async def side_route(self, request: web.BaseRequest) -> web.Response:
        match request.path, request.method:
            case "/health" | "/ping", _:
                return web.Response()
            case "/version", "GET":
                return web.json_response({"version": VERSION})
            case "/v1/models", "GET":
                entries = [entry | {"max_model_len": MAX_MODEL_LEN} for entry in self.model_entries("vllm")]
                return web.json_response({"object": "list", "data": entries})
            case "/metrics", "GET":
                return self._metrics()
            case "/tokenize", "POST":
                return await self._tokenize(request)
            case "/sleep" | "/wake_up" | "/is_sleeping", _ if self.options.sleep_routes:
                return await self._sleep_route(request)
            case path, _ if path in self.inference:
                return web.json_response({"detail": "Method Not Allowed"}, status=405)
            case _:
                return web.json_response({"detail": "Not Found"}, status=404)

    async def _sleep_route(self, request: web.BaseRequest) -> web.Response:
        match request.path, request.method:
            case "/is_sleeping", "GET":
                return web.json_response({"is_sleeping": self.asleep})
            case "/sleep", "POST":
                level = request.query.get("level", "1")
                if level not in {"0", "1", "2"}:
                    return self.error(400, f"cannot sleep at level {level!r}; try 1 or 2", param="level")
                await asyncio.sleep(SLEEP_S)
                self.asleep = True
            case "/wake_up", "POST":
                await asyncio.sleep(SLEEP_S)
                self.asleep = False
            case _:
                return web.json_response({"detail": "Method Not Allowed"}, status=405)
        return web.Response()

    async def _tokenize(self, request: web.BaseRequest) -> web.Response:
        try:
            body = decode("", await request.read(), endpoint="chat")
            words = answer_for(body, endpoint="chat" if "messages" in body else "completion").words
        except BadRequest as error:
            return self.error(400, str(error), param=error.param)
        tokens = token_ids(" ".join(words))
        return web.json_response({"count": len(tokens), "max_model_len": MAX_MODEL_LEN, "tokens": tokens})

    def _metrics(self) -> web.Response:
        counts = self.engine.counts
        model = self.options.names[0].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        labels = f'engine="0",model_name="{model}"'
        plain = f"{{{labels}}}"
        samples = [
            ("vllm:num_requests_running", "gauge", plain, counts.in_flight),
            ("vllm:num_requests_waiting", "gauge", plain, 0),
            ("vllm:kv_cache_usage_perc", "gauge", plain, min(1.0, counts.in_flight / 100)),
            ("vllm:prompt_tokens_total", "counter", plain, counts.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", plain, counts.tokens),
        ]
        reasons = {"stop": 0, "length": counts.finished["length"], "abort": counts.aborted}
        samples += [
            ("vllm:request_success_total", "counter", f'{{{labels},finished_reason="{reason}"}}', number)
            for reason, number in reasons.items()
        ]
        return prometheus(samples)

    def error(self, status: int, message: str, *, param: str | None = None) -> web.Response:
        kind = {400: "BadRequestError", 404: "NotFoundError"}.get(status, "InternalServerError")
        return web.json_response(
            {"error": {"message": message, "type": kind, "param": param, "code": status}}, status=status
        )

    def unknown_model(self, model: str) -> web.Response | None:
        if model in self.options.names:
            return None
        return self.error(404, f"The model `{model}` does not exist.", param="model")

    def unfit(self, endpoint: Endpoint, body: Body) -> web.Response | None:
        """A sleeping engine has no weights to answer with."""
        del endpoint, body
        return self.error(500, "the engine is asleep; POST /wake_up first") if self.asleep else None

    def starting_lines(self) -> Sequence[str]:
        return (
            f"(APIServer pid={os.getpid()}) INFO [api_server.py] vLLM API server version {VERSION} (simulated)",
            f"(APIServer pid={os.getpid()}) INFO [model.py] Resolved architecture: SimulatedForCausalLM",
            f"(EngineCore_DP0) INFO [gpu_model_runner.py] Starting to load model {self.options.model}...",
        )

    def ready_lines(self) -> Sequence[str]:
        return (
            f"(EngineCore_DP0) INFO [gpu_model_runner.py] Model loading took {self.options.load_seconds:.2f} seconds",
            f"INFO:     Started server process [{os.getpid()}]",
            "INFO:     Waiting for application startup.",
            "INFO:     Application startup complete.",
        )

    def failure_line(self) -> str:
        return (
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {} (simulated)"
        )

    def access_line(self, request: web.BaseRequest, status: int) -> str:
        phrase = http.HTTPStatus(status).phrase
        return f'INFO:     {peer_of(request)} - "{request.method} {request.path_qs} HTTP/1.1" {status} {phrase}'
