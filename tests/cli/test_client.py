"""Whatever answers, or does not: a message with the URL and a cure, the right code, never a traceback."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.cli import client as client_module
from reconciler.cli.client import Client, Target
from reconciler.cli.failure import Code, Failure
from reconciler.host.clock import SystemClock
from reconciler.host.store import StateFolder
from tests.cli.conftest import Cli
from tests.cli.fake import KEY, FakeDaemon, Reply, instance, problem, status

DEEP = "[" * 100_000


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A peer that answers each connection by these bytes and hangs up."""
    says: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                for piece in says:
                    connection.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    monkeypatch.setenv("LLAMACTL_SERVER", f"http://127.0.0.1:{listener.getsockname()[1]}")
    yield says
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x16\x03\x01\x00\x05hello",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xfe{",
        b"HTTP/1.1 200 OK\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\n\r\n" + DEEP.encode(),
        b'HTTP/1.1 200 OK\r\n\r\n{"instances": {}}',
        b'HTTP/1.1 200 OK\r\n\r\n{"instances": [1]}',
        b'HTTP/1.1 200 OK\r\n\r\n{"instances": [{"name": []}]}',
        b'HTTP/1.1 200 OK\r\n\r\n{"instances": [{"replicas": [{"pid": "x"}]}]}',
        b'HTTP/1.1 200 OK\r\n\r\n{"config": "none"}',
        b"HTTP/1.1 500 Oops\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n",
        b"HTTP/1.1 404 No\r\n\r\n" + b"x" * 70_000,
    ],
)
@pytest.mark.parametrize(
    "command", [["status"], ["wait", "x", "--for", "ready"], ["logs", "x"], ["events"], ["chat", "x", "y"]]
)
def test_garbage_is_said_in_one_line(cli: Cli, raw: list[bytes], answer: bytes, command: list[str]) -> None:
    raw.append(answer)
    result = cli(*command)
    if command[0] in ("logs", "events") and result.code == 0:
        return  # a log is any text, and no events are no failure
    assert result.code in (Code.UNREACHABLE, Code.FAILED)
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) == 1


def test_a_refused_connection_names_url_and_cure(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    result = cli("status", "--server", url)
    assert result.code == 69
    assert url in result.err
    assert "--server" in result.err


def test_https_to_a_server_without_tls_is_said(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("status", "--server", daemon.url.replace("http:", "https:"))
    assert result.code == 69
    assert "TLS" in result.err


def test_silence_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = cli("status", "--server", f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert result.code == 69
    assert "no answer in time" in result.err


def test_no_daemon_at_all_says_how_to_start_one(cli: Cli) -> None:
    result = cli("status")
    assert result.code == 69
    assert "llamactl up" in result.err


def test_a_missing_key_is_77_and_the_right_one_works(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.key = KEY
    daemon.on("GET /api/v1/status", status())
    result = cli("status")
    assert result.code == 77
    assert "LLAMACTL_MANAGEMENT_KEY" in result.err
    monkeypatch.setenv("LLAMACTL_MANAGEMENT_KEY", f"{KEY}\n")
    assert cli("status").code == 0


def test_forbidden_is_77(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", problem(403, "an inference key opens /v1 only"))
    result = cli("status")
    assert result.code == 77
    assert "an inference key opens /v1 only" in result.err


def test_a_key_that_cannot_be_one_is_64_and_not_repeated(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMACTL_MANAGEMENT_KEY", "geheim\nX-Evil: 1")
    result = cli("status")
    assert result.code == 64
    assert "geheim" not in result.err
    assert not daemon.requests


def test_an_unknown_instance_is_1_with_the_daemons_words(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/instances/nope", problem(404, "there is no instance nope"))
    result = cli("status", "nope")
    assert (result.code, result.err) == (1, "llamactl: there is no instance nope\n")


def test_names_are_quoted_into_the_path(cli: Cli, daemon: FakeDaemon) -> None:
    cli("status", "../../config?x=1#y")
    assert daemon.requests[0].path == "/api/v1/instances/..%2F..%2Fconfig%3Fx%3D1%23y"


def test_a_url_with_a_path_and_ipv6_work(daemon: FakeDaemon) -> None:
    daemon.on("GET /llm/api/v1/status", status())
    assert Client(Target(url=f"{daemon.url}/llm/")).get("/api/v1/status").number("generation") == 1
    with pytest.raises(Failure) as refused:
        Client(Target(url="http://[::1]:9")).get("/")
    assert refused.value.code == 69


def test_problems_of_a_422_keep_their_caret(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("instances:\n  a: {prot: 1}\n")
    found = {
        "file": "<request>",
        "line": 2,
        "column": 7,
        "path": "instances.a.prot",
        "message": "unknown key prot",
        "hint": "did you mean port?",
        "severity": "error",
        "source": "  a: {prot: 1}",
    }
    daemon.on("POST /api/v1/plan", problem(422, "the file is invalid", problems=[found]))
    result = cli("plan", "-f", str(file))
    assert result.code == 65
    assert f"{file}:2:7" in result.err
    assert "\n          ^\n" in result.err
    assert "did you mean port?" in result.err
    assert result.out == ""


async def test_the_local_daemon_is_found_with_its_key(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAMACTL_SERVER")
    daemon.key = KEY
    daemon.on("GET /api/v1/status", status(instance("tiny")))
    folder = await StateFolder.take(Path(os.environ["LLAMACTL_STATE_DIR"]), clock=SystemClock())
    try:
        folder.announce(url=daemon.url, key=KEY)
        assert cli("status").code == 0
        monkeypatch.setenv("LLAMACTL_SERVER", daemon.url)
        assert cli("status").code == 0, "its URL by name finds the same key"
    finally:
        folder.close()
    monkeypatch.delenv("LLAMACTL_SERVER")
    assert cli("status").code == 69


def test_json_is_what_the_daemon_answered(cli: Cli, daemon: FakeDaemon) -> None:
    answer = status(instance("tiny")) | {"from": "a newer daemon"}
    daemon.on("GET /api/v1/status", answer)
    assert json.loads(cli("status", "-o", "json").out) == answer


def test_a_reply_longer_than_any_is_refused(cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LARGEST_ANSWER", 1000)
    daemon.on("GET /api/v1/status", Reply(b"1" * 2000))
    assert "longer than" in cli("status").err
