"""From one HTTP request to its answer: whole or as a stream, at the engine's pace, with a stream's own faults.

It records every inference request (for `/_sim/stats` and the call log). When the process ends is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from aiohttp import web

from reconciler.simulator.engine import Answer, Engine
from reconciler.simulator.flags import Options
from reconciler.simulator.logs import CallLog, log
from reconciler.simulator.openai import (
    DONE,
    BadRequest,
    Body,
    Endpoint,
    Reply,
    answer_for,
    decode,
    embeddings,
    model_of,
    usage,
    wants_stream,
    wants_usage,
)
from reconciler.simulator.personality import Personality

PREFILL_STEPS = 4
"""In how many steps a prompt is worked on where progress is told."""

FLUSH_S = 1.0
"""How long an orderly end waits for an answer on its way to a slow reader, seconds."""

LAST_WORD_S = 0.1
"""How long a cut stream may take to say that it was cut, seconds: a slow reader must not hold up the exit."""


class Serving:
    """Answers inference requests. `on_ended` is called after each, with its connection's bytes handed to the system."""

    def __init__(
        self,
        options: Options,
        *,
        engine: Engine,
        personality: Personality,
        calls: CallLog,
        on_ended: Callable[[], None],
    ) -> None:
        self._options = options
        self._engine = engine
        self._personality = personality
        self._calls = calls
        self._on_ended = on_ended
        self.last: dict[str, object] | None = None

    async def answer(self, request: web.BaseRequest, endpoint: Endpoint) -> web.StreamResponse:
        """Reads, records and answers one inference request."""
        body = await request.read()
        try:
            with self._engine.request():
                response = await self._answer(request, endpoint, body)
                if self._options.exit_after_requests is not None:
                    await self._flush(request)
                return response
        finally:
            self._on_ended()

    async def _answer(self, request: web.BaseRequest, endpoint: Endpoint, raw: bytes) -> web.StreamResponse:
        body: dict[str, Any] = {}
        problem: BadRequest | None = None
        try:
            body = decode(request.headers.get("Content-Type", ""), raw, endpoint=endpoint)
        except BadRequest as error:
            problem = error
        model = model_of(body)
        self._record(request, model=model, raw=raw)
        await self._engine.loaded.wait()
        await self._engine.think(0)
        if problem is not None:
            return await self._send(request, self._personality.error(400, str(problem), param=problem.param))
        refusal = self._personality.unknown_model(model) if model is not None else None
        refusal = refusal or self._personality.unfit(endpoint, body)
        if refusal is not None:
            return await self._send(request, refusal)
        try:
            return await self._generate(request, endpoint, body)
        except BadRequest as error:
            return await self._send(request, self._personality.error(400, str(error), param=error.param))

    async def _generate(self, request: web.BaseRequest, endpoint: Endpoint, body: Body) -> web.StreamResponse:
        model = model_of(body) or self._options.names[0]
        if endpoint == "embedding":
            found = embeddings(body, model=model)
            await self._engine.think(self._engine.ttft_s)
            return await self._send(request, web.json_response(found))
        if endpoint == "transcription":
            audio = body.get("file")
            if not isinstance(audio, bytes):
                raise BadRequest("file: an audio file is required", param="file")
            await self._engine.think(self._engine.ttft_s)
            return await self._send(request, web.json_response({"text": f"{len(audio)} bytes of sound"}))
        answer = answer_for(body, endpoint=endpoint)
        prefix = "chatcmpl" if endpoint == "chat" else "cmpl"
        reply = Reply(
            identity=f"{prefix}-{os.getpid()}-{self._engine.counts.requests}",
            created=int(time.time()),
            model=model,
            endpoint=endpoint,
            pad="x" * self._options.response_pad,
        )
        if wants_stream(body):
            return await self._stream(request, reply, answer=answer, with_usage=wants_usage(body))
        async for _ in self._engine.prefill(answer, steps=1):
            pass
        words = [token async for token in self._engine.tokens(answer)]
        self._engine.counts.finished["length"] += 1
        whole = reply.whole("".join(words), usage(answer.prompt_tokens, len(words)))
        return await self._send(request, web.json_response(whole))

    async def _stream(
        self, request: web.BaseRequest, reply: Reply, *, answer: Answer, with_usage: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        )
        if self._personality.headers_before_first_token:
            await self._open(request, response)
        try:
            steps = PREFILL_STEPS if self._personality.progress_comments else 1
            async for done in self._engine.prefill(answer, steps=steps):
                if self._personality.progress_comments:
                    await response.write(f": keepalive {done}/{answer.prompt_tokens}\n\n".encode())
            if not response.prepared:
                await self._open(request, response)
            await self._tokens(response, reply, answer=answer)
        except asyncio.CancelledError:
            if self._engine.cut and response.prepared:
                await self._say_cut(response, reply)
            raise
        self._engine.counts.finished["length"] += 1
        await response.write(reply.closing("length"))
        if with_usage:
            await response.write(reply.usage_chunk(usage(answer.prompt_tokens, answer.limit)))
        await response.write(DONE)
        await response.write_eof()
        return response

    async def _tokens(self, response: web.StreamResponse, reply: Reply, *, answer: Answer) -> None:
        """Writes the token chunks; each write waits while the client does not read."""
        if opening := reply.opening():
            await response.write(opening)
        head, tail = reply.around_tokens()
        sent = 0
        async for token in self._engine.tokens(answer):
            if sent == self._options.die_mid_stream_after:
                self._die()
            await response.write(head + json.dumps(token).encode() + tail)
            sent += 1

    async def _say_cut(self, response: web.StreamResponse, reply: Reply) -> None:
        """The last chunk of a stream that the server gave up; no end follows it."""
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await response.write(reply.closing("abort"))
        except (TimeoutError, ConnectionError):
            log("a cut stream had no reader for its last chunk")

    def _die(self) -> NoReturn:
        """Ends the process as a crash does: no farewell, no flush, no end of any stream."""
        log("simulated crash in mid-stream")
        if self._options.exit_code is None:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(self._options.exit_code or 0)

    async def _open(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        await response.prepare(request)
        log(self._personality.access_line(request, response.status))

    @staticmethod
    async def _flush(request: web.BaseRequest) -> None:
        """Waits until the answer has left this process, for up to `FLUSH_S`: the process may end right after it."""
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=0)  # so that a drain waits for the last byte
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(FLUSH_S):
                    await request.writer.drain()

    async def _send(self, request: web.BaseRequest, response: web.Response) -> web.Response:
        """Sends a whole answer here rather than later, so that the request lasts until its last byte is written."""
        log(self._personality.access_line(request, response.status))
        await response.prepare(request)
        await response.write_eof()
        return response

    def _record(self, request: web.BaseRequest, *, model: str | None, raw: bytes) -> None:
        digest = hashlib.sha256(raw).hexdigest()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.last = {"path": request.path_qs, "model": model, "headers": headers, "body_sha256": digest}
        self._calls.write(
            {
                "path": request.path_qs,
                "model": model,
                "headers": sorted(headers),
                "body_sha256": digest,
                "pid": os.getpid(),
            }
        )
