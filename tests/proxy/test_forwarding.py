"""What goes up and what comes down: bytes, headers, keys, names."""

from __future__ import annotations

import gzip
import hashlib
import json
import os

import pytest

from tests.proxy.upstreams import Exchange, answer_ok, fixed, plain, proxied, upstream
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

KEYS = {"management": [access_key(MANAGEMENT_KEY)], "inference": [access_key(INFERENCE_KEY)]}


async def test_a_body_reaches_the_backend_as_sent_but_for_the_models_value() -> None:
    body = b'{ "z" : 1.10, "model"\t:  "gemma" , "messages":[{"content":"\\u00e9 \xc3\xa9 model"}],"seed":12345678901234567890 }\n'
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", target(backend.port, model="org/real"), aliases=["gemma"])))
        async with serving(control) as server:
            answer = await server.request("POST", "/v1/chat/completions", body)
    assert answer.status == 200
    assert backend.seen[0].body == body.replace(b'"gemma"', b'"org/real"')


async def test_a_body_is_untouched_where_the_backend_knows_the_name_or_takes_any() -> None:
    async with upstream() as backend:
        control = FakeControl(
            routes(
                route("same", target(backend.port, model="same")),
                route("any", target(backend.port, key="b"), aliases=["alias"]),
            )
        )
        async with serving(control) as server:
            for name in ("same", "any", "alias"):
                body = json.dumps({"pad": os.urandom(2000).hex(), "model": name}, indent=3).encode()
                await server.request("POST", "/v1/completions", body)
                assert hashlib.sha256(backend.seen[-1].body).digest() == hashlib.sha256(body).digest()
            await server.request("POST", "/v1/completions", {"model": "any/lora"})
    assert json.loads(backend.seen[-1].body) == {"model": "lora"}


async def test_three_megabytes_pass_unchanged_with_and_without_a_declared_length() -> None:
    body = b'{"messages": "' + b"y" * 3_000_000 + b'", "model": "tiny"}'
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", target(backend.port, model="r"))))
        async with serving(control) as server:
            assert (await server.request("POST", "/v1/chat/completions", body)).status == 200
            async with server.connected() as connection:
                await connection.send(
                    encoded(
                        "POST", "/v1/x", headers={"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
                    )
                )
                for start in range(0, len(body), 100_000):
                    piece = body[start : start + 100_000]
                    await connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
                await connection.send(b"0\r\n\r\n")
                assert (await connection.answer()).status == 200
    for seen in backend.seen:
        assert seen.body == body.replace(b'"tiny"', b'"r"')
        assert seen.headers["content-length"] == str(len(body) - 3)
        assert "transfer-encoding" not in seen.headers


async def test_a_form_is_routed_by_its_field_and_its_file_passes_unchanged() -> None:
    audio = os.urandom(50_000)
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + audio + b"\r\n"
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nears\r\n--b--\r\n'
    )
    async with upstream() as backend:
        control = FakeControl(routes(route("ears", target(backend.port, model="whisper-1"))))
        async with serving(control) as server:
            kind = {"Content-Type": "multipart/form-data; boundary=b"}
            answer = await server.request("POST", "/v1/audio/transcriptions", body, headers=kind)
    assert answer.status == 200
    assert backend.seen[0].body == body.replace(b"\r\n\r\nears\r\n", b"\r\n\r\nwhisper-1\r\n")
    assert backend.seen[0].headers["content-type"] == "multipart/form-data; boundary=b"


async def test_path_query_and_method_pass_as_written() -> None:
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", target(backend.port))))
        async with serving(control) as server:
            await server.request("DELETE", "/v1/responses/a%2Fb+c%20?model=tiny&x=%2B&y=a+b")
            await server.request("PATCH", "/v1/anything", {"model": "tiny"})
            await server.request("GET", "/v1/files?model=tiny")
    assert [seen.line for seen in backend.seen] == [
        "DELETE /v1/responses/a%2Fb+c%20?model=tiny&x=%2B&y=a+b HTTP/1.1",
        "PATCH /v1/anything HTTP/1.1",
        "GET /v1/files?model=tiny HTTP/1.1",
    ]


async def test_a_request_that_names_no_model_is_told_what_to_do() -> None:
    async with proxied() as (backend, server):
        for method, path, body in (
            ("GET", "/v1/files", None),
            ("DELETE", "/v1/files/x", None),
            ("POST", "/v1/chat/completions", {"messages": []}),
            ("POST", "/v1/chat/completions", b""),
        ):
            answer = await server.request(method, path, body)
            assert answer.status == 400
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert "?model=NAME" in error["message"]
    assert not backend.seen


async def test_the_clients_secrets_stay_here_and_the_backends_key_is_added() -> None:
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", target(backend.port, api_key="backend-secret")), **KEYS))  # type: ignore[arg-type]  # keys are given as one mapping
        async with serving(control) as server:
            for headers in ({"X-API-Key": INFERENCE_KEY}, {"Authorization": f"Bearer {INFERENCE_KEY}"}):
                answer = await server.request(
                    "POST", "/v1/chat/completions", {"model": "tiny"}, headers={**headers, "Cookie": "session=1"}
                )
                assert answer.status == 200
    for seen in backend.seen:
        assert INFERENCE_KEY.encode() not in seen.head
        assert b"session" not in seen.head
        assert "x-api-key" not in seen.headers
        assert seen.headers["authorization"] == "Bearer backend-secret"


async def test_a_backend_without_a_key_is_sent_none() -> None:
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", target(backend.port)), **KEYS))  # type: ignore[arg-type]  # keys only
        async with serving(control) as server:
            for key in (INFERENCE_KEY, MANAGEMENT_KEY):
                assert (await server.chat("tiny", key=key)).status == 200
    assert not [seen for seen in backend.seen if "authorization" in seen.headers]


async def test_hop_by_hop_headers_and_forged_addresses_end_here() -> None:
    async with proxied() as (backend, server):
        await server.request(
            "POST",
            "/v1/chat/completions",
            {"model": "tiny"},
            headers={
                "Connection": "keep-alive, X-Private , x-more",
                "X-Private": "1",
                "X-More": "1",
                "Keep-Alive": "timeout=5",
                "TE": "trailers",
                "Proxy-Authorization": "Basic x",
                "X-Forwarded-For": "6.6.6.6",
                "X-Forwarded-Host": "evil",
                "X-Forwarded-Prefix": "/evil",
                "Forwarded": "for=6.6.6.6",
                "X-Real-IP": "6.6.6.6",
                "X-Request-Id": "abc",
                "Accept-Encoding": "br",
                "User-Agent": "curl/1",
            },
        )
    seen = backend.seen[0].headers
    assert not {"x-private", "x-more", "keep-alive", "te", "proxy-authorization", "forwarded", "x-real-ip"} & set(seen)
    assert "x-forwarded-prefix" not in seen
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-host"] == "127.0.0.1"
    assert seen["host"] == f"127.0.0.1:{backend.port}"
    assert (seen["x-request-id"], seen["accept-encoding"], seen["user-agent"]) == ("abc", "br", "curl/1")
    assert "accept" not in seen


async def test_the_answers_headers_pass_but_for_those_of_one_hop() -> None:
    extra = (
        "Connection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: yes\r\nX-Kept: twice\r\n"
        "Access-Control-Allow-Origin: *\r\nSet-Cookie: a=b\r\n"
    )
    async with (
        proxied(fixed(plain(b"{}", status="201 Made", extra=extra))) as (_backend, server),
        server.connected() as connection,
    ):
        await connection.send(encoded("POST", "/v1/x", {"model": "tiny"}))
        head = await connection.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 Made\r\n")
    assert head.count(b"X-Kept: ") == 2
    for name in (b"x-secret", b"keep-alive", b"access-control", b"set-cookie"):
        assert name not in head.lower()


async def test_compressed_answers_pass_raw_whatever_is_in_them() -> None:
    bomb = gzip.compress(b"\0" * 30_000_000)
    for body in (bomb, b"not gzip at all"):
        async with proxied(fixed(plain(body, extra="Content-Encoding: gzip\r\n"))) as (_backend, server):
            answer = await server.chat("tiny")
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.body == body


async def test_a_compressed_body_needs_its_model_beside_it_and_is_not_unpacked() -> None:
    bomb = gzip.compress(b'{"model": "tiny"}' + b" " * 30_000_000)
    async with proxied() as (backend, server):
        headers = {"Content-Encoding": "gzip"}
        assert (await server.request("POST", "/v1/x", bomb, headers=headers)).status == 415
        assert (await server.request("POST", "/v1/x?model=tiny", bomb, headers=headers)).status == 200
    assert [seen.body for seen in backend.seen] == [bomb]


async def test_head_gets_the_head_of_the_answer_and_the_connection_goes_on() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1234\r\n\r\n"
    async with proxied(lambda exchange: exchange.send(head)) as (_backend, server), server.connected() as connection:
        for _ in range(2):
            await connection.send(encoded("HEAD", "/v1/files?model=tiny"))
            answer = await connection.answer(head=True)
            assert (answer.status, answer.headers["content-length"]) == (200, "1234")


async def test_interim_answers_end_here_and_trailers_are_dropped() -> None:
    raw = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n"
    )
    async with proxied(fixed(raw)) as (_backend, server), server.connected() as connection:
        await connection.send(encoded("POST", "/v1/x", {"model": "tiny"}, headers={"Connection": "close"}))
        got = await connection.reader.read(-1)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.endswith(b"2\r\n{}\r\n0\r\n\r\n")
    assert b"X-T" not in got


async def test_an_old_client_gets_an_answer_that_ends_with_the_connection() -> None:
    async def chunked(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    async with proxied(chunked) as (_backend, server), server.connected() as connection:
        body = b'{"model":"tiny"}'
        await connection.send(b"POST /v1/x HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        got = await connection.reader.read(-1)
    assert got.endswith(b"\r\n\r\nhello")
    assert b"chunked" not in got


async def test_connections_to_a_backend_are_kept_and_used_again() -> None:
    async with proxied() as (backend, server):
        for _ in range(5):
            assert (await server.chat("tiny")).status == 200
    assert backend.connections == 1


async def test_an_upgrade_to_websocket_is_refused_in_words() -> None:
    async with proxied() as (backend, server):
        answer = await server.request(
            "GET", "/v1/realtime?model=tiny", headers={"Connection": "Upgrade", "Upgrade": "websocket"}
        )
    assert answer.status == 501
    assert "WebSocket" in answer.json()["error"]["message"]
    assert not backend.seen


async def test_the_raw_route_passes_everything_to_the_backends_own_paths() -> None:
    async with upstream(fixed(plain(b"metrics 1\n", kind="text/plain"))) as backend:
        control = FakeControl(
            routes(route("tiny", target(backend.port, model="real", api_key="bk")), route("cold"), **KEYS)  # type: ignore[arg-type]  # keys are given as one mapping
        )
        async with serving(control) as server:
            base = "/api/v1/instances/tiny/proxy"
            answer = await server.request("GET", f"{base}/metrics?a=%2B", key=MANAGEMENT_KEY)
            assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"metrics 1\n", "text/plain")
            body = b'not json {"model": "tiny"}'
            plain_text = {"Content-Type": "text/plain"}
            await server.request("POST", f"{base}/tokenize//x%2Fy", body, key=MANAGEMENT_KEY, headers=plain_text)
            assert (await server.request("GET", f"{base}/slots", key=INFERENCE_KEY)).status == 403
            assert (await server.request("GET", f"{base}/slots")).status == 401
            missing = await server.request("GET", "/api/v1/instances/nope/proxy/x", key=MANAGEMENT_KEY)
            assert (missing.status, missing.headers["content-type"]) == (404, "application/problem+json")
            cold = await server.request("GET", "/api/v1/instances/cold/proxy/x", key=MANAGEMENT_KEY)
            assert (cold.status, cold.headers["retry-after"]) == (503, "7")
    assert [seen.line for seen in backend.seen] == ["GET /metrics?a=%2B HTTP/1.1", "POST /tokenize//x%2Fy HTTP/1.1"]
    assert backend.seen[1].body == body
    assert {seen.headers["authorization"] for seen in backend.seen} == {"Bearer bk"}


@pytest.mark.parametrize("url_path", ["/v1/models", "/v1/models/gemma"])
async def test_models_are_listed_without_asking_any_backend(url_path: str) -> None:
    async with upstream(answer_ok) as backend:
        control = FakeControl(routes(route("tiny", target(backend.port), aliases=["gemma"])))
        async with serving(control) as server:
            answer = await server.request("GET", url_path)
            assert answer.status == 200
            assert b'"gemma"' in answer.body
            assert (await server.request("GET", "/v1/models/nope")).json()["error"]["code"] == "model_not_found"
    assert backend.connections == 0


async def test_requests_are_counted_on_their_replica_for_as_long_as_they_last() -> None:
    async def slowly(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await release.wait()
        await exchange.send(b"0\r\n\r\n")

    import asyncio

    release = asyncio.Event()
    async with upstream(slowly) as backend:
        control = FakeControl(routes(route("tiny", target(backend.port, key="r"))))
        async with serving(control) as server, server.connected() as connection:
            await connection.send(encoded("POST", "/v1/x", {"model": "tiny"}))
            await connection.reader.readuntil(b"x\r\n")
            assert control.leases.in_flight("r") == 1
            assert control.leases.progress_at("r") is not None
            release.set()
            await connection.reader.readuntil(b"0\r\n\r\n")
        assert control.leases.in_flight("r") == 0
        assert control.leases.demand("tiny").last_end is not None


@pytest.mark.parametrize("name", [b"tiny/\\ud800", b"tiny/\xff", b"\\udfff", b"\xed\xa0\x80"])
async def test_a_model_that_is_no_text_is_400_and_reaches_nobody(name: bytes) -> None:
    async with proxied() as (backend, server):
        answer = await server.request("POST", "/v1/chat/completions", b'{"model":"' + name + b'"}')
    assert answer.status == 400
    assert answer.json()["error"]["param"] == "model"
    assert not backend.seen
