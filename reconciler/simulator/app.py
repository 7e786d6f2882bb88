"""The process: binds the port, has the children made, loads for as long as asked, listens, obeys signals, ends.

Everything that ends the process in an orderly way goes through one future that holds the exit code.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import HttpVersion10, web

from reconciler.simulator.children import Child, ChildFailed, spawn_children
from reconciler.simulator.engine import Engine
from reconciler.simulator.flags import Kind, Options
from reconciler.simulator.llama_cpp import LlamaCpp
from reconciler.simulator.logs import CallLog, flood, log
from reconciler.simulator.mlx_lm import MlxLm
from reconciler.simulator.personality import Personality
from reconciler.simulator.serving import Serving
from reconciler.simulator.vllm import Vllm

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader
    from aiohttp.web_protocol import RequestHandler

PERSONALITIES: Mapping[Kind, type[Personality]] = {"vllm": Vllm, "llama_cpp": LlamaCpp, "mlx_lm": MlxLm}

BACKLOG = 2048
"""uvicorn's default; never what a load test runs into."""

LARGEST_BODY = 256 * 1024 * 1024
"""Bytes of a request body that are read; far above what any client of a language model sends."""

CUT_S = 0.3
"""How long the requests that are cut may take, seconds; vLLM is gone within 0.5."""


def run(options: Options) -> int:
    """Runs the simulator in this process until it ends; returns the exit code."""
    started = time.monotonic()
    calls = CallLog(options.call_log)
    try:
        calls.open()
        bound = _bind(options.host, options.port)
        children = spawn_children(options.children)
    except (OSError, ChildFailed) as error:
        log(f"{options.program}: cannot start on {options.host}:{options.port}: {error}")
        return 1
    for child in children:
        log(f"started child process pid={child.pid} kind={child.kind}")
    return asyncio.run(_main(options, started=started, calls=calls, bound=bound, children=children))


async def _main(
    options: Options, *, started: float, calls: CallLog, bound: socket.socket, children: tuple[Child, ...]
) -> int:
    simulator = Simulator(options, calls=calls, bound=bound, children=children)
    return await simulator.live(started=started)


def _bind(host: str, port: int) -> socket.socket:
    """Takes the port without listening on it, as vLLM does before it loads; raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    return bound


class Simulator:
    """One simulated server; owns the listener, the engine and the decision to end."""

    def __init__(self, options: Options, *, calls: CallLog, bound: socket.socket, children: tuple[Child, ...]) -> None:
        self._options = options
        self._bound = bound
        self._children = children
        self._listener: asyncio.Server | None = None
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._engine = Engine(
            ttft_s=options.ttft_ms / 1000,
            token_delay_s=options.token_delay_ms / 1000,
            hang_after_requests=options.hang_after_requests,
        )
        self._personality = PERSONALITIES[options.kind](options, self._engine)
        self._serving = Serving(
            options, engine=self._engine, personality=self._personality, calls=calls, on_ended=self._request_ended
        )
        self._stop = asyncio.Event()
        self._http = web.Server(
            self._handle,
            request_factory=self._make_request,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=self._personality.keep_alive_s,
        )

    async def live(self, *, started: float) -> int:
        """The whole life, from the load to the exit code. `started` is the monotonic time of the process's start."""
        self._obey_signals()
        for line in self._personality.starting_lines():
            log(line)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._become_ready(started=started)),
                tasks.create_task(flood(self._options.log_lines_per_second)),
                tasks.create_task(self._stop_on_signal()),
            ]
            code = await self._end
            for task in background:
                task.cancel()
        if self._listener is not None:
            self._listener.close()
        log(f"{self._options.program}: exit with code {code}")
        return code

    async def _become_ready(self, *, started: float) -> None:
        options = self._options
        if self._personality.listens_while_loading:
            await self._listen()
        await asyncio.sleep(options.load_seconds - (time.monotonic() - started))
        if options.fail_start:
            log(self._personality.failure_line())
            self._finish(1 if options.exit_code is None else options.exit_code)
            return
        if not self._personality.listens_while_loading:
            await self._listen()
        self._engine.loaded.set()
        for line in self._personality.ready_lines():
            log(line)
        if options.exit_after_seconds is not None:
            await asyncio.sleep(options.exit_after_seconds)
            log("simulated death: its time has come")
            self._finish(options.exit_code or 0)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(self._http, sock=self._bound, backlog=BACKLOG)
        except OSError as error:
            log(f"{self._options.program}: cannot listen on {self._options.host}:{self._options.port}: {error}")
            self._finish(1)
            return
        address = self._bound.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        log(f"listening on {host}:{address[1]}")
        for doubt in self._options.doubts:
            log(f"WARNING {doubt}")

    def _finish(self, code: int) -> None:
        if not self._end.done():
            self._end.set_result(code)

    def _request_ended(self) -> None:
        limit = self._options.exit_after_requests
        if limit is not None and self._engine.counts.ended >= limit:
            self._finish(self._options.exit_code or 0)

    def _obey_signals(self) -> None:
        loop = asyncio.get_running_loop()
        wanted = [signal.SIGINT] if self._options.ignore_sigterm else [signal.SIGINT, signal.SIGTERM]
        for number in wanted:
            if self._personality.stop_manner == "signal_default":
                signal.signal(number, signal.SIG_DFL)
            else:
                loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if not self._stop.is_set():
            log("Shutting down")
            self._stop.set()
        elif self._personality.stop_manner == "wait_for_clients":
            log("Received second interrupt, terminating immediately.")
            self._finish(1)

    async def _stop_on_signal(self) -> None:
        """Ends in the server's own manner once a signal asked for it."""
        await self._stop.wait()
        manner = self._personality.stop_manner
        if manner == "cut":
            self._engine.cut_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(CUT_S):
                    await self._engine.idle.wait()
        elif manner == "wait_for_clients":
            if self._listener is not None:
                self._listener.close()
            self._engine.freeze()
            await self._engine.idle.wait()
        self._finish(0)

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """A request as the acted server sees it: HTTP/1.0 servers answer so whatever the client speaks."""
        if self._personality.closes_after_each_answer:
            message = message._replace(version=HttpVersion10, should_close=True)
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=LARGEST_BODY)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/_sim/stats":
            return web.json_response(self._stats())
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # else the head that follows counts as sent already
        endpoint = self._personality.inference.get(request.path) if request.method == "POST" else None
        response = self._personality.refusal(request)
        if response is None and endpoint is not None:
            return await self._serving.answer(request, endpoint)
        if response is None:
            response = await self._personality.side_route(request)
        log(self._personality.access_line(request, response.status))
        return response

    def _stats(self) -> dict[str, object]:
        counts = self._engine.counts
        return {
            "pid": os.getpid(),
            "kind": self._options.kind,
            "loaded": self._engine.loaded.is_set(),
            "hung": self._engine.frozen,
            "requests": counts.requests,
            "in_flight": counts.in_flight,
            "aborted": counts.aborted,
            "tokens": counts.tokens,
            "prompt_tokens": counts.prompt_tokens,
            "children": [{"pid": child.pid, "kind": child.kind} for child in self._children],
            "last": self._serving.last,
        }
