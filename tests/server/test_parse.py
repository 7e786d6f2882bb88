"""``parse-command`` over HTTP, with the real backends: understood as YAML, refused with a place, never executed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.backends import discover
from reconciler.config import load
from reconciler.core.spec import BackendsSpec
from reconciler.installed.known import Installed
from tests.host.installs import llama_server
from tests.server.fakes import MANAGEMENT_KEY, FakeControl, access_key, routes, serving
from tests.server.test_api import curl, example

EXAMPLE = (
    "vllm serve --model ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g --tensor-parallel-size 2 --gpu-memory-utilization 0.5"
)
URL = "/api/v1/backends/vllm/parse-command"


def control() -> FakeControl:
    return FakeControl(routes(management=[access_key(MANAGEMENT_KEY)]), backends=discover())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_requests_example_works_as_written() -> None:
    async with serving(control()) as server:
        status, body = await curl(server, *example(server, URL, MANAGEMENT_KEY, '{\n"command": "' + EXAMPLE + '"\n}'))
    answer = json.loads(body)
    assert status == 200
    assert set(answer) == {
        "backend_type", "backend_options", "environment", "extra_args", "executable", "name", "warnings", "yaml"
    }  # fmt: skip
    assert answer["backend_type"] == "vllm"
    assert answer["backend_options"]["tensor_parallel_size"] == 2
    assert answer["backend_options"]["gpu_memory_utilization"] == 0.5
    assert "ISTA-DASLab/gemma-3-27b-it-GPTQ-4b-128g" in answer["yaml"]
    assert answer["yaml"].startswith("instances:\n")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/yaml", "application/yaml"),
        ("application/yaml, application/json", "application/yaml"),
        ("application/json, application/yaml", "application/json"),
        ("application/yaml;q=0, */*", "application/json"),
        ("application/yaml;q=0.000", "application/json"),
        ("application/yaml;q=0.1, application/json", "application/json"),
        ("application/json;q=0.1, application/yaml", "application/yaml"),
        ("*/*", "application/json"),
    ],
)
async def test_the_snippet_alone_is_given_to_who_asks_for_yaml(accept: str, kind: str) -> None:
    async with serving(control()) as server:
        answer = await server.request("POST", URL, {"command": EXAMPLE}, key=MANAGEMENT_KEY, headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(kind)
    assert answer.body.startswith(b"instances:\n" if kind == "application/yaml" else b"{")


@pytest.mark.parametrize("route", ["vllm", "llama-cpp", "mlx"])
async def test_each_server_has_its_route(route: str) -> None:
    commands = {
        "vllm": "vllm serve m",
        "llama-cpp": "llama-server -m m.gguf -c 4096",
        "mlx": "mlx_lm.server --model m",
    }
    async with serving(control()) as server:
        url = f"/api/v1/backends/{route}/parse-command"
        answer = await server.request("POST", url, {"command": commands[route]}, key=MANAGEMENT_KEY)
    assert answer.status == 200


@pytest.mark.parametrize(
    "command", ["vllm serve m | tee log", "vllm serve $(cat x)", "vllm serve `id`", "vllm serve 'm", ""]
)
async def test_what_is_not_understood_is_400_with_its_position(command: str) -> None:
    async with serving(control()) as server:
        answer = await server.request("POST", URL, {"command": command}, key=MANAGEMENT_KEY)
    assert answer.status == 400
    (problem, *_) = answer.json()["problems"]
    assert problem["line"] == 1
    assert problem["column"] >= 1


async def test_another_body_or_route_is_refused_in_words() -> None:
    async with serving(control()) as server:
        bodies: list[object] = [{}, {"command": 5}, {"command": "x", "more": 1}, []]
        for body in bodies:
            assert (await server.request("POST", URL, body, key=MANAGEMENT_KEY)).status == 400
        unknown = await server.request("POST", URL.replace("vllm", "nope"), {"command": "x"}, key=MANAGEMENT_KEY)
        assert unknown.status == 404
        assert "llama-cpp" in unknown.json()["detail"]
        assert (await server.request("POST", URL, {"command": EXAMPLE})).status == 401


@pytest.mark.parametrize(
    ("command", "line", "column"),
    [
        ("vllm serve m | tee log", 1, 14),
        ("vllm serve m \\\r\n  --seed 1 \\\r\n  --seed 2", 3, 3),
        ("vllm serve m \\\n  --dtype flot16", 2, 3),
        ("sudo vllm serve m", 1, 1),
    ],
)
async def test_a_refusal_is_a_problem_document_with_the_place(command: str, line: int, column: int) -> None:
    async with serving(control()) as server:
        answer = await server.request("POST", URL, {"command": command}, key=MANAGEMENT_KEY)
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("application/problem+json")
    body = answer.json()
    assert body["status"] == 400
    assert f"line {line}, column {column}" in body["detail"]
    (problem,) = body["problems"]
    assert (problem["line"], problem["column"]) == (line, column)
    assert problem["message"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"vllm serve m", 400),
        (b'"vllm serve m"', 400),
        (b'{"command": null}', 400),
        (b'{"command": ["vllm", "serve", "m"]}', 400),
        (b'{"command": "vllm serve m", "command": "x"}', 400),
        (b'{"command": "vllm serve m", "backend": "vllm"}', 400),
        (b'{"command": "\xff"}', 400),
        (b'{"command": "vllm serve \\ud800"}', 400),
        (b'{"command": "' + b"x" * 1_000_000 + b'"}', 400),
        (b'{"command": "' + b"x" * 1_100_000 + b'"}', 413),
    ],
)
async def test_a_body_of_another_shape_or_size_is_refused_as_a_problem(data: bytes, status: int) -> None:
    async with serving(control()) as server:
        answer = await server.request("POST", URL, data, key=MANAGEMENT_KEY)
    assert answer.status == status
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["detail"]


async def test_warnings_are_texts_that_begin_with_their_place() -> None:
    command = "A=1 vllm serve m \\\n  --host 0.0.0.0 --frobnicate x\n--port 1"
    async with serving(control()) as server:
        answer = await server.request("POST", URL, {"command": command}, key=MANAGEMENT_KEY)
    warnings = answer.json()["warnings"]
    assert [warning.split(": ")[0] for warning in warnings] == ["2:3", "2:18", "3:1", "3:1"]


@pytest.mark.parametrize("tail", ["", " --seed q", " | tee", " 'open", " stray"])
async def test_no_secret_is_in_an_answer(tail: str) -> None:
    command = "HF_TOKEN=S3cretNumberOne vllm serve m --api-key S3cretNumberTwo --hf-token S3cretNumberThree" + tail
    async with serving(control()) as server:
        answer = await server.request("POST", URL, {"command": command}, key=MANAGEMENT_KEY)
    assert answer.status == (400 if tail else 200)
    assert b"S3cret" not in answer.body


async def test_the_snippet_in_the_answer_is_a_file_that_loads() -> None:
    command = "A='x y' /opt/v/bin/vllm serve m/x --hf-overrides '{\"a\": [1, \"${B}\"]}' --frobnicate '#1' --seed -1"
    async with serving(control()) as server:
        answer = await server.request("POST", URL, {"command": command}, key=MANAGEMENT_KEY)
    said = answer.json()
    fleet = load.load_text(said["yaml"].encode(), name="snippet.yaml", backends=discover(), environ={})
    spec = fleet.instances[said["name"]]
    assert spec.backend_options == {"model": "m/x", "hf_overrides": {"a": [1, "${B}"]}, "seed": -1}
    assert spec.environment == said["environment"] == {"A": "x y"}
    assert list(spec.extra_args) == said["extra_args"] == ["--frobnicate", "#1"]
    assert spec.executable == said["executable"] == "/opt/v/bin/vllm"


async def test_nothing_is_ever_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    for name in ("posix_spawn", "fork", "execve", "system"):
        monkeypatch.setattr(f"os.{name}", forbidden)
    monkeypatch.setattr(subprocess, "Popen", forbidden)
    async with serving(control()) as server, asyncio.timeout(20):
        for command in (EXAMPLE, "vllm serve $(touch /tmp/x)", "vllm serve " + "--seed 1 " * 50_000, "x" * 900_000):
            answer = await server.request("POST", URL, {"command": command}, key=MANAGEMENT_KEY)
            assert answer.status in (200, 400)


async def test_a_command_is_read_by_the_program_that_the_accepted_file_names(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "my-server", "--brand-new N                           as of late (default: 3)")
    known = Installed({"PATH": os.defpath}, tmp_path / "state")
    known.read("llama_cpp", (str(program),))
    asked = {"command": "llama-server -m /m/q.gguf --brand-new 7"}
    seen = []
    for programs in (BackendsSpec(), BackendsSpec(llama_executable=str(program))):
        told = FakeControl(routes(management=[access_key(MANAGEMENT_KEY)]), backends=known.backends, programs=programs)
        async with serving(told) as server:
            answer = await server.request("POST", URL.replace("vllm", "llama-cpp"), asked, key=MANAGEMENT_KEY)
        seen.append(answer.json()["backend_options"].get("brand_new"))
    assert seen == [None, 7]
