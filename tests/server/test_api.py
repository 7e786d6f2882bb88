"""The management routes: each one call of the controller, each failure in its shape."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Sequence

import pytest
from pydantic import JsonValue

from reconciler.config.document import declares, set_instance
from reconciler.core.errors import Conflict, LlamactlError, Problem, Rejected, Terminal, Transient
from reconciler.server.requests import MAX_DEPTH
from tests.server.fakes import (
    INFERENCE_KEY,
    MANAGEMENT_KEY,
    FakeControl,
    Server,
    access_key,
    encoded,
    route,
    routes,
    serving,
)

TINY: dict[str, object] = {"name": "tiny", "phase": "ready", "ready": True, "restarts": 2}


def control(**fields: object) -> FakeControl:
    return FakeControl(routes(), instances={"tiny": dict(TINY)}, **fields)  # type: ignore[arg-type]  # fields by name


async def test_health_answers_and_readiness_names_what_is_not_ready() -> None:
    scripted = control()
    async with serving(scripted) as server:
        assert (await server.request("GET", "/health")).json() == {"status": "ok"}
        assert (await server.request("GET", "/livez")).status == 200
        assert (await server.request("HEAD", "/health")).status == 200
        assert (await server.request("GET", "/readyz")).status == 200
        scripted.not_ready = ["big", "slow"]
        answer = await server.request("GET", "/readyz")
        assert answer.status == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["not_ready"] == ["big", "slow"]
        assert "big, slow" in answer.json()["detail"]
        assert (await server.request("GET", "/livez")).status == 200


async def test_status_and_instances_are_what_the_controller_says() -> None:
    scripted = control(saved=True)
    async with serving(scripted) as server:
        told = (await server.request("GET", "/api/v1/status")).json()
        assert told["config"].pop("pending") is True
        assert told == scripted.status()
        assert (await server.request("GET", "/api/v1/instances")).json() == {"instances": [TINY]}
        assert (await server.request("GET", "/api/v1/instances/tiny")).json() == TINY
        missing = await server.request("GET", "/api/v1/instances/nope")
    assert missing.status == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no instance nope",
        "code": "not_found",
        "problems": [],
    }


async def test_edits_are_calls_of_the_controller() -> None:
    scripted = control()
    body = {"backend_type": "vllm", "backend_options": {"model": "m", "seed": 0}}
    async with serving(scripted) as server:
        made = await server.request("POST", "/api/v1/instances/fresh", body)
        assert (made.status, made.headers["location"]) == (201, "/api/v1/instances/fresh")
        assert made.json()["name"] == "fresh"
        assert (await server.request("POST", "/api/v1/instances/fresh", body)).status == 409
        assert (await server.request("PUT", "/api/v1/instances/tiny", body)).json() == TINY
        assert (await server.request("PUT", "/api/v1/instances/nope", body)).status == 404
        for verb in ("start", "stop", "restart"):
            assert (await server.request("POST", f"/api/v1/instances/tiny/{verb}")).json() == TINY
            assert (await server.request("POST", f"/api/v1/instances/tiny/{verb}", {})).status == 200
            assert (await server.request("POST", f"/api/v1/instances/nope/{verb}")).status == 404
        removed = await server.request("DELETE", "/api/v1/instances/tiny")
        assert (removed.status, removed.json()) == (200, {"name": "tiny", "removed": True})
        assert (await server.request("DELETE", "/api/v1/instances/nope")).status == 404
        down = await server.request("POST", "/api/v1/down")
        assert (down.status, down.json()) == (202, {"stopping": 2})
    assert scripted.calls[0] == ("create", "fresh", body)
    assert ("set_enabled", "tiny", True) in scripted.calls
    assert ("set_enabled", "tiny", False) in scripted.calls
    assert ("restart", "tiny") in scripted.calls


async def test_an_invalid_edit_is_422_with_file_line_and_column() -> None:
    async with serving(control()) as server:
        answer = await server.request("POST", "/api/v1/instances/fresh", {"backend_options": {}})
    assert answer.status == 422
    (problem,) = answer.json()["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == ("llamactl.yaml", 4, 3)
    assert problem["message"] == "backend_type is missing"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Rejected(Problem(message="no")), 422, "invalid"),
        (Rejected(Problem(message="cannot", code="CONFIG_NOT_EDITABLE")), 409, "not_editable"),
        (Conflict("the file cannot be written: read-only; edit it by hand"), 409, "conflict"),
        (Transient("later"), 503, "unavailable"),
        (Terminal("never"), 422, "impossible"),
    ],
)
async def test_each_kind_of_failure_has_its_status(error: LlamactlError, status: int, code: str) -> None:
    async with serving(control(fails=error)) as server:
        answer = await server.request("POST", "/api/v1/instances/x/restart")
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b'{"backend_type": }', 1, 18),
        (b'{"backend_type": "vllm",\n  "backend_options": {"a" 1}}', 2, 27),
        (b"{'single': 1}", 1, 2),
        (b'{"a": 1} x', 1, 10),
        (b"", 1, 1),
        (b"[1, 2]", 1, 1),
        (b'"text"', 1, 1),
        (b'{"a": 1, "a": 2}', None, None),
        (b'{"a": NaN}', None, None),
        (b'{"a": ' + b"1" * 5000 + b"}", None, None),
        (b'{"a":' + b"[" * 100_000, None, None),
        (b'{"a": "\xff"}', None, None),
    ],
)
async def test_a_body_that_is_no_json_object_is_400_with_its_place(
    body: bytes, line: int | None, column: int | None
) -> None:
    scripted = control()
    async with serving(scripted) as server:
        answer = await server.request("POST", "/api/v1/instances/x", body)
    assert answer.status == 400
    (problem,) = answer.json()["problems"]
    assert (problem["line"], problem["column"]) == (line, column)
    assert scripted.calls == []


@pytest.mark.parametrize(
    ("body", "path", "why"),
    [
        (b'{"labels": ' + b"[" * 400 + b"]" * 400 + b"}", "labels" + "[0]" * 37, "nested deeper than 37 levels"),
        (b'{"labels": {"a": ["fine", "\\u001b[2J"]}}', "labels.a[1]", "U+001B"),
        (b'{"labels": {"a\\u0000": "x"}}', "labels", "U+0000"),
        (b'{"model": "\\ud800"}', "model", "U+D800"),
        (b'{"labels": {"a": 1e999}}', "labels.a", "finite"),
        (b'{"labels": {"a": 9223372036854775808}}', "labels.a", "64 bits"),
        (b'{"labels": [' + b"1," * 20_000 + b"1]}", "", "more than 20,000 values"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_value_that_no_file_can_hold_is_400_with_its_path(
    method: str, body: bytes, path: str, why: str
) -> None:
    scripted = control()
    async with serving(scripted) as server:
        answer = await server.request(method, "/api/v1/instances/x", body)
    assert answer.status == 400
    (problem,) = answer.json()["problems"]
    assert problem["path"] == path
    assert why in problem["message"]
    assert scripted.calls == []


def test_what_an_instance_may_hold_is_what_its_file_may_hold() -> None:
    deepest: JsonValue = 1
    for _ in range(MAX_DEPTH - 1):
        deepest = [deepest]
    body: dict[str, JsonValue] = {"labels": deepest, "text": "tab\t, line\n, \U0001f600", "n": [2**63 - 1, -(2**63)]}
    assert declares(set_instance("", "x", body), "x")
    with pytest.raises(Rejected):
        set_instance("", "x", {"labels": [deepest]})


async def test_management_bodies_are_bounded() -> None:
    scripted = control()
    async with serving(scripted) as server:
        for headers in (None, {"Content-Type": "application/yaml"}):
            big = b'{"a": "' + b"x" * 1_100_000 + b'"}'
            path, method = ("/api/v1/config", "PUT") if headers else ("/api/v1/instances/x", "POST")
            assert (await server.request(method, path, big, headers=headers)).status == 413
        expecting = {"Expect": "100-continue", "Content-Length": "2000000", "Content-Type": "application/json"}
        assert (await server.request("POST", "/api/v1/instances/x", headers=expecting)).status == 413
    assert scripted.calls == []


async def test_unknown_paths_are_404_and_wrong_methods_405_in_the_shape_of_the_place() -> None:
    async with serving(control()) as server:
        for path in ("/", "/nope", "/api/v1/nope", "/api/v2/status", "/api/v1/instances/a/b/c"):
            answer = await server.request("GET", path)
            assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
        wrong = await server.request("DELETE", "/api/v1/status")
        assert (wrong.status, wrong.json()["code"]) == (405, "method_not_allowed")
        assert "GET" in wrong.headers["allow"]
        assert set((await server.request("GET", "/v1/models/x")).json()) == {"error"}


async def test_the_file_is_read_and_replaced_with_its_etag() -> None:
    text = b"# mine\ninstances: {}\n"
    scripted = control(text=text)
    yaml = {"Content-Type": "application/yaml"}
    async with serving(scripted) as server:
        read = await server.request("GET", "/api/v1/config")
        etag = read.headers["etag"]
        assert (read.body, read.headers["content-type"]) == (text, "application/yaml")
        assert etag == f'"{hashlib.sha256(text).hexdigest()}"'
        assert (await server.request("GET", "/api/v1/config", headers={"If-None-Match": etag})).status == 304
        new = b"# newer\ninstances: {}\n"
        put = await server.request("PUT", "/api/v1/config", new, headers={**yaml, "If-Match": etag})
        assert (put.status, put.json()["generation"], scripted.text) == (200, 4, new)
        assert put.headers["etag"] == f'"{hashlib.sha256(new).hexdigest()}"'
        stale = await server.request("PUT", "/api/v1/config", text, headers={**yaml, "If-Match": etag})
        assert (stale.status, stale.json()["code"], scripted.text) == (412, "precondition_failed", new)
        several = f'"x", {put.headers["etag"]}'
        assert (await server.request("PUT", "/api/v1/config", new, headers={**yaml, "If-Match": several})).status == 200
        none = await server.request("PUT", "/api/v1/config", text, headers={**yaml, "If-Match": '"x", "y"'})
        assert (none.status, scripted.text) == (412, new)
        for demand in ({}, {"If-Match": "*"}):
            assert (await server.request("PUT", "/api/v1/config", text, headers={**yaml, **demand})).status == 200
        empty = await server.request("PUT", "/api/v1/config", b" \n", headers=yaml)
        assert (empty.status, empty.json()["problems"][0]["code"]) == (400, "CONFIG_EMPTY")
        form = await server.request("PUT", "/api/v1/config", text, headers={"Content-Type": "text/plain"})
        assert form.status == 415


async def test_a_plan_is_of_the_text_sent_or_of_the_daemons_own_file() -> None:
    scripted = control()
    async with serving(scripted) as server:
        answer = await server.request(
            "POST", "/api/v1/plan", b"instances: {}", headers={"Content-Type": "application/yaml"}
        )
        assert (answer.status, answer.json()["pending"]) == (200, False)
        assert (await server.request("POST", "/api/v1/plan")).status == 200
    assert scripted.calls == [("plan", b"instances: {}"), ("plan", None)]


async def test_metrics_tell_phases_and_requests_and_escape_names() -> None:
    scripted = control()
    scripted.instances['q"\\'] = {"name": 'q"\\', "phase": "backoff", "ready": False, "restarts": 7}
    async with serving(scripted) as server:
        with scripted.leases.hold("tiny", "t"), scripted.leases.waiting("tiny"):
            text = (await server.request("GET", "/metrics")).body.decode()
    assert 'llamactl_instance_ready{instance="tiny"} 1\n' in text
    assert 'llamactl_instance_phase{instance="tiny",phase="ready"} 1\n' in text
    assert 'llamactl_instance_in_flight{instance="tiny"} 1\n' in text
    assert 'llamactl_instance_waiting{instance="tiny"} 1\n' in text
    assert 'llamactl_instance_restarts_total{instance="q\\"\\\\"} 7\n' in text
    assert text.count("# TYPE llamactl_instance_ready gauge\n") == 1


async def curl(server: Server, *arguments: str) -> tuple[int, bytes]:
    """The real curl, and what it answers."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        "-sS",
        "-w",
        "\n%{http_code}",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, err
    body, _, status = out.rpartition(b"\n")
    return int(status), body


def example(server: Server, path: str, key: str, data: str) -> Sequence[str]:
    """One of the request's examples, as it is written there."""
    return (
        "-X", "POST", f"http://localhost:{server.port}{path}",
        "-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json", "-d", data,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("keys", [True, False])
async def test_the_requests_create_example_works_as_written(keys: bool) -> None:
    scripted = control()
    if keys:
        scripted.snapshot = routes(management=[access_key(MANAGEMENT_KEY)], inference=[access_key(INFERENCE_KEY)])
    data = """{
"backend_type": "vllm",
"backend_options": {
"model": "ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g",
"tensor_parallel_size": 2,
"gpu_memory_utilization": 0.5,
"enable_log_outputs": true
}
}"""
    async with serving(scripted) as server:
        arguments = example(server, "/api/v1/instances/my-vllm-model", MANAGEMENT_KEY, data)
        status, body = await curl(server, *arguments)
    assert (status, json.loads(body)["name"]) == (201, "my-vllm-model")
    assert scripted.calls == [("create", "my-vllm-model", json.loads(data))]


async def test_a_defect_of_ours_is_a_500_that_tells_nothing() -> None:
    scripted = control(fails=RuntimeError("secret detail"))
    async with serving(scripted) as server:
        answer = await server.request("POST", "/api/v1/instances/x/restart")
        assert (await server.request("GET", "/health")).status == 200
    assert answer.status == 500
    assert b"secret" not in answer.body


async def test_an_answer_in_one_line_of_log_whatever_is_in_the_request(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(FakeControl(routes(route("tiny")))) as server, server.connected() as client:
        await client.send(encoded("GET", "/v1/x%0a%1b[31m?model=a%0ab"))
        assert (await client.answer()).status == 400
    assert not [record for record in caplog.records if "\n" in record.getMessage() or "\x1b" in record.getMessage()]
