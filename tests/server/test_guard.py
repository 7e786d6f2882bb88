"""Ambiguous HTTP, foreign names and foreign pages: refused before anything else looks at the request."""

from __future__ import annotations

import asyncio
import gc
import logging

import psutil
import pytest
from aiohttp import http_parser

from reconciler.core.errors import Terminal
from reconciler.core.spec import ServerSpec
from reconciler.server import app
from tests.proxy.upstreams import proxied, upstream
from tests.server.fakes import (
    INFERENCE_KEY,
    MANAGEMENT_KEY,
    FakeControl,
    access_key,
    encoded,
    route,
    routes,
    serving,
    target,
)

BODY = b'{"model": "tiny"}'
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a.localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ONE_CHUNK = b"11\r\n" + BODY + b"\r\n0\r\n\r\n"
LENGTH = b"Content-Length: 17\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
SECOND = b"POST /v1/smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 17\r\n\r\n" + BODY

AMBIGUOUS = {
    "length and chunks": POST + LENGTH + CHUNKED + b"\r\n" + ONE_CHUNK,
    "chunks and length": POST + CHUNKED + LENGTH + b"\r\n" + ONE_CHUNK,
    "two lengths": POST + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY,
    "the same length twice": POST + LENGTH + LENGTH + b"\r\n" + BODY,
    "a list of lengths": POST + b"Content-Length: 17, 17\r\n\r\n" + BODY,
    "a signed length": POST + b"Content-Length: +17\r\n\r\n" + BODY,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a hexadecimal length": POST + b"Content-Length: 0x11\r\n\r\n" + BODY,
    "an underscore in a length": POST + b"Content-Length: 1_7\r\n\r\n" + BODY,
    "a length beyond all numbers": POST + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "a space before the colon": POST + b"Content-Length : 17\r\n\r\n" + BODY,
    "a space before the coding's colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + ONE_CHUNK,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + ONE_CHUNK,
    "chunked, then identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + ONE_CHUNK,
    "gzip, then chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + ONE_CHUNK,
    "chunked twice": POST + CHUNKED + CHUNKED + b"\r\n" + ONE_CHUNK,
    "a vertical tab before chunked": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + ONE_CHUNK,
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n" + ONE_CHUNK,
    "a prefixed chunk size": POST + CHUNKED + b"\r\n0x11\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a signed chunk size": POST + CHUNKED + b"\r\n+11\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk size beyond all numbers": POST + CHUNKED + b"\r\nfffffffffffffffff1\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a bare line feed after a chunk size": POST + CHUNKED + b"\r\n11\n" + BODY + b"\r\n0\r\n\r\n",
    "a bare line feed in a chunk extension": POST + CHUNKED + b"\r\n11;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk without its end": POST + CHUNKED + b"\r\n11\r\n" + BODY + b"xx0\r\n\r\n",
    "a length in the trailers": POST + CHUNKED + b"\r\n11\r\n" + BODY + b"\r\n0\r\nContent-Length: 5\r\n\r\n",
    "bare line feeds": (POST + LENGTH).replace(b"\r\n", b"\n") + b"\n" + BODY,
    "a bare carriage return": GET + b"X: a\rb\r\n\r\n",
    "a folded header": GET + b"X: a\r\n b\r\n\r\n",
    "a zero byte in a header": GET + b"X: a\x00b\r\n\r\n",
    "a space in a header's name": GET + b"X Y: a\r\n\r\n",
    "an empty header name": GET + b": a\r\n\r\n",
    "no Host": b"GET /health HTTP/1.1\r\n\r\n",
    "two Hosts": GET + b"Host: evil\r\n\r\n",
    "a Host with a path": b"GET /health HTTP/1.1\r\nHost: x/../y@z\r\n\r\n",
    "a Host with a user": b"GET /health HTTP/1.1\r\nHost: localhost@evil\r\n\r\n",
    "a Host with a long port": b"GET /health HTTP/1.1\r\nHost: localhost:123456\r\n\r\n",
    "raw bytes in the path": b"GET /h\xe9alth HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"GET /he alth HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method in lower case": GET.replace(b"GET", b"get") + b"\r\n",
    "an unknown method": GET.replace(b"GET", b"FROB") + b"\r\n",
    "HTTP/1.2": GET.replace(b"1.1", b"1.2") + b"\r\n",
    "HTTP/0.9 with a version": b"GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n",
    "a header line that is too long": GET + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "a path that is too long": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "too many headers": GET + b"".join(b"X-%d: a\r\n" % n for n in range(100)) + b"\r\n",
    "an absolute target": b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a fragment": b"GET /health#x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an underscore for a dash": POST + b"Content_Length: 3\r\n" + LENGTH + b"\r\n" + BODY,
    "an underscore in a coding": POST + b"Transfer_Encoding: chunked\r\n" + LENGTH + b"\r\n" + BODY,
    "dot segments": b"GET /v1/../api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "encoded dot segments": b"GET /v1/%2e%2e%2fapi HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "backslash dot segments": b"GET /v1/..%5capi HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an encoded zero byte": b"GET /v1/x%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an encoded line break": b"GET /v1/x%0d%0aX:%20y HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("kind", list(AMBIGUOUS))
async def test_ambiguous_http_is_400_ends_the_connection_and_reaches_no_backend(kind: str) -> None:
    async with proxied() as (backend, server), server.connected() as client:
        await client.send(AMBIGUOUS[kind] + SECOND)
        answer = await client.answer()
        assert answer.status == 400
        rest = await client.reader.read(-1)
    assert b"HTTP/1.1 200" not in rest
    assert b"HTTP/1.1 502" not in rest
    assert not backend.seen


async def test_http_0_9_is_not_served() -> None:
    async with proxied() as (_, server), server.connected() as client:
        await client.send(b"GET /health\r\n\r\n")
        assert b"ok" not in await client.reader.read(-1)


async def test_an_upgrade_that_nobody_takes_opens_no_tunnel() -> None:
    async with proxied() as (backend, server), server.connected() as client:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        await client.send(POST + upgrade + LENGTH + b"\r\n" + BODY)
        assert (await client.answer()).status == 200
        await client.send(encoded("GET", "/health"))
        assert (await client.answer()).json() == {"status": "ok"}
    assert len(backend.seen) == 1
    assert "upgrade" not in backend.seen[0].headers


async def test_pipelined_requests_are_each_judged_alone() -> None:
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", target(backend.port)), inference=[access_key(INFERENCE_KEY)]))
        async with serving(control) as server, server.connected() as client:
            sent = [
                encoded("POST", "/v1/x", {"model": "tiny"}, key=key) for key in (INFERENCE_KEY, "wrong", INFERENCE_KEY)
            ]
            await client.send(b"".join(sent))
            assert [(await client.answer()).status for _ in sent] == [200, 401, 200]
    assert len(backend.seen) == 2


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("my.localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("10.1.2.3", 200),
        ("llm.example.com", 200),
        ("evil.example", 403),
        ("evil.llm.example.com", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
async def test_names_that_are_not_this_servers_are_refused(host: str, status: int) -> None:
    control = FakeControl(routes(server=ServerSpec(allowed_hosts=("LLM.example.com",))))
    async with serving(control) as server:
        for path in ("/health", "/api/v1/status", "/v1/models"):
            assert (await server.request("GET", path, headers={"Host": host})).status == status


CORS = ServerSpec(cors_origins=("https://chat.example",))


async def test_pages_of_other_origins_may_call_only_what_was_opened_to_them() -> None:
    async with serving(FakeControl(routes(server=CORS))) as server:
        for origin in ("https://evil.example", "null", "https://chat.example.evil", "http://chat.example"):
            for path in ("/v1/models", "/api/v1/status"):
                refused = await server.request("GET", path, headers={"Origin": origin})
                assert refused.status == 403
                assert "access-control-allow-origin" not in refused.headers
        listed = {"Origin": "https://chat.example"}
        opened = await server.request("GET", "/v1/models", headers=listed)
        assert (opened.status, opened.headers["access-control-allow-origin"]) == (200, "https://chat.example")
        assert opened.headers["vary"] == "Origin"
        assert (await server.request("GET", "/api/v1/status", headers=listed)).status == 403
        own = await server.request(
            "GET", "/api/v1/status", headers={"Host": "localhost:8", "Origin": "http://localhost:8"}
        )
        assert own.status == 200


async def test_a_listed_page_may_ask_first_without_a_key_and_reads_streams_and_errors() -> None:
    async with upstream() as backend:
        keys = [access_key(INFERENCE_KEY)]
        control = FakeControl(routes(route("tiny", target(backend.port)), server=CORS, inference=keys))
        async with serving(control) as server:
            origin = {"Origin": "https://chat.example"}
            ask = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
            asked = await server.request("OPTIONS", "/v1/chat/completions", headers=ask)
            assert (asked.status, asked.headers["access-control-allow-headers"]) == (204, "authorization")
            assert "POST" in asked.headers["access-control-allow-methods"]
            assert (await server.request("OPTIONS", "/api/v1/status", headers=ask)).status == 403
            for key, status in ((INFERENCE_KEY, 200), ("wrong", 401)):
                answer = await server.request("POST", "/v1/x", {"model": "tiny"}, key=key, headers=origin)
                assert answer.status == status
                if status == 200:
                    assert answer.headers["access-control-allow-origin"] == "https://chat.example"


async def test_what_a_form_can_send_changes_nothing() -> None:
    control = FakeControl(routes(), instances={"tiny": {"name": "tiny"}})
    async with serving(control) as server:
        for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
            for method, path in (
                ("POST", "/api/v1/instances/a"),
                ("POST", "/api/v1/instances/tiny/stop"),
                ("PUT", "/api/v1/config"),
                ("POST", "/api/v1/down"),
            ):
                answer = await server.request(method, path, b"{}", headers={"Content-Type": kind})
                assert answer.status == 415
                assert "Content-Type: application/" in answer.json()["detail"]
        assert (await server.request("GET", "/api/v1/instances/tiny/stop")).status == 405
        assert (await server.request("GET", "/api/v1/down")).headers["allow"] == "POST"
    assert control.calls == []


@pytest.mark.parametrize("key", [None, "wrong", "", "caf\udce9", "k" * 10_000, "\u00fcml"])
async def test_a_bad_key_is_401_with_the_same_words_always(key: str | None) -> None:
    control = FakeControl(routes(management=[access_key(MANAGEMENT_KEY)], inference=[access_key(INFERENCE_KEY)]))
    async with serving(control) as server:
        for path, message in (("/v1/models", ("error", "message")), ("/api/v1/status", ("detail",))):
            answer = await server.request("GET", path, key=key)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            text = answer.json()
            for part in message:
                text = text[part]
            assert text == "a valid key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`"


async def test_an_inference_key_manages_nothing_and_health_needs_no_key() -> None:
    control = FakeControl(routes(management=[access_key(MANAGEMENT_KEY)], inference=[access_key(INFERENCE_KEY)]))
    async with serving(control, local_key="local-key") as server:
        assert (await server.request("GET", "/api/v1/status", key=INFERENCE_KEY)).status == 403
        assert (await server.request("GET", "/metrics", key=INFERENCE_KEY)).status == 403
        assert (await server.request("GET", "/api/v1/nowhere")).status == 401
        for path in ("/health", "/livez", "/readyz"):
            assert (await server.request("GET", path)).status == 200
        for key in (MANAGEMENT_KEY, "local-key"):
            assert (await server.request("GET", "/api/v1/status", key=key)).status == 200
            assert (await server.request("GET", "/v1/models", key=key)).status == 200
            assert (await server.request("GET", "/v1/models", headers={"X-API-Key": key})).status == 200


async def test_nobody_is_told_to_go_on_without_a_key() -> None:
    control = FakeControl(routes(inference=[access_key(INFERENCE_KEY)]))
    async with serving(control) as server:
        headers = {"Expect": "100-continue", "Content-Length": "17", "Content-Type": "application/json"}
        for path in ("/v1/x", "/api/v1/plan", "/api/v1/instances/a/proxy/x"):
            assert (await server.request("POST", path, headers=headers)).status == 401


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/nope", None, 404),
        ("/health", None, 405),
        ("/api/v1/nope", None, 401),
        ("/api/v1/nope", MANAGEMENT_KEY, 404),
        ("/api/v1/status", None, 401),
        ("/api/v1/status", MANAGEMENT_KEY, 405),
    ],
)
async def test_nobody_is_told_to_go_on_to_where_no_route_leads(path: str, key: str | None, status: int) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 17\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    head += "Content-Type: application/json\r\n\r\n"
    control = FakeControl(routes(management=[access_key(MANAGEMENT_KEY)], inference=[access_key(INFERENCE_KEY)]))
    async with serving(control) as server, server.connected() as client:
        await client.send(head.encode())
        async with asyncio.timeout(5):
            first = await client.reader.readline()
    assert first.split()[1] == str(status).encode()


@pytest.mark.parametrize(
    "start",
    [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: loc", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he"],
)
async def test_unfinished_heads_and_silent_connections_end(start: bytes) -> None:
    async with serving(FakeControl(), keepalive=0.3) as server, server.connected() as client:
        await client.send(start)
        async with asyncio.timeout(5):
            rest = await client.reader.read(-1)
    assert rest == b"" or b"200 OK" in rest


async def test_a_head_that_drips_ends() -> None:
    async with serving(FakeControl(), keepalive=0.3) as server, server.connected() as client:
        await client.send(b"GET /health HTTP/1.1\r\n")
        ended = asyncio.ensure_future(client.at_end())
        for number in range(100):
            if ended.done():
                break
            client.writer.write(b"X-%d: a\r\n" % number)
            await asyncio.wait({ended}, timeout=0.1)
        assert await ended


async def test_many_unfinished_heads_at_the_limit_are_bounded() -> None:
    async with serving(FakeControl()) as server:
        gc.collect()
        before = psutil.Process().memory_info().rss
        writers = []
        line = b"X: " + b"a" * 12_000 + b"\r\n"
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET + line * 63)
            await writer.drain()
            writers.append(writer)
        assert (await server.request("GET", "/health")).status == 200
        assert psutil.Process().memory_info().rss - before < 60_000_000
        for writer in writers:
            writer.transport.abort()


async def test_answers_tell_no_versions() -> None:
    async with serving(FakeControl()) as server:
        assert (await server.request("GET", "/health")).headers["server"] == "llamactl"


async def test_malformed_requests_fill_no_log_and_leave_no_key_in_it(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(FakeControl()) as server:
        for level in (logging.INFO, logging.DEBUG):
            caplog.set_level(level)
            async with server.connected() as client:
                await client.send(GET + b"Authorization : Bearer the-secret-key\x00\r\n\r\n")
                assert (await client.answer()).status == 400
            if level == logging.INFO:
                assert not [record for record in caplog.records if record.name.startswith(("aiohttp", "reconciler"))]
    assert "the-secret-key" not in caplog.text
    assert "Traceback" not in caplog.text


def test_the_loose_parser_is_not_served_on(monkeypatch: pytest.MonkeyPatch) -> None:
    app.check_parser()
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(Terminal, match="PARSER_UNSAFE"):
        app.check_parser()
