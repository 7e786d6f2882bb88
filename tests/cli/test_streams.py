"""``logs``, ``events`` and ``chat``: passed on as it comes; a break is never taken for an end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Cli
from tests.cli.fake import KEY, FakeDaemon, Reply, Request, problem

LOGS = "GET /api/v1/instances/tiny/logs"
CHAT = "POST /v1/chat/completions"
SSE = "text/event-stream"


def event(number: int, message: str) -> bytes:
    """One event as the daemon writes it."""
    data = {"id": number, "at": "2026-01-01T00:00:00Z", "kind": "phase", "instance": "tiny", "message": message}
    return f"id: {number}\nevent: phase\ndata: {json.dumps(data)}\n\n".encode()


def token(text: str | None, finish: str | None = None) -> bytes:
    """One chunk of a reply."""
    delta = {"content": text} if text is not None else {}
    return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': finish}]})}\n\n".encode()


def test_logs_are_printed_byte_by_byte_with_what_was_asked(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on(LOGS, Reply("line one\nline two\n", type="text/plain"))
    assert cli("logs", "tiny", "--tail", "2", "--previous").out == "line one\nline two\n"
    assert daemon.requests[0].query == {"tail": "2", "previous": "1"}


def test_followed_logs_appear_at_once_and_ctrl_c_is_their_end(daemon: FakeDaemon) -> None:
    over = threading.Event()

    def lines() -> Iterator[bytes]:
        yield b"\xff first\n"
        over.wait(30)

    daemon.on(LOGS, Reply(lines(), type="text/plain"))
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "logs", "tiny", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\xff first\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    over.set()
    assert (process.returncode, err) == (0, b"")
    assert daemon.requests[0].query == {"follow": "1"}


def test_a_log_that_breaks_off_is_69(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on(LOGS, Reply(iter((b"first\n", None)), type="text/plain"))
    result = cli("logs", "tiny")
    assert (result.code, result.out) == (69, "first\n")
    assert "broke" in result.err


def test_events_end_where_the_past_ends(cli: Cli, daemon: FakeDaemon) -> None:
    over = threading.Event()

    def endless() -> Iterator[bytes]:
        yield event(1, "starting") + b": still here\n\n" + event(2, "ready")
        over.wait(30)

    daemon.on("GET /api/v1/events", Reply(endless(), type=SSE))
    result = cli("events")
    over.set()
    assert result.code == 0
    assert result.out.splitlines() == [
        "2026-01-01T00:00:00Z  phase   tiny: starting",
        "2026-01-01T00:00:00Z  phase   tiny: ready",
    ]


def test_followed_events_go_on_after_a_break_where_they_were(daemon: FakeDaemon) -> None:
    over = threading.Event()

    def more() -> Iterator[bytes]:
        yield event(2, "two")
        over.wait(30)

    answers = [Reply(iter((event(1, "one"), None)), type=SSE), Reply(more(), type=SSE)]
    daemon.routes["GET /api/v1/events"] = lambda request: answers.pop(0)
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "events", "-f", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert [json.loads(process.stdout.readline())["message"] for _ in range(2)] == ["one", "two"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    over.set()
    assert process.returncode == 0
    assert [request.headers["Last-Event-ID"] for request in daemon.requests] == ["0", "1"]


def test_a_reply_is_streamed_to_stdout(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on(
        CHAT, Reply(iter((token(None), token("Hel"), token("lo"), token(None, "stop"), b"data: [DONE]\n\n")), type=SSE)
    )
    result = cli("chat", "tiny", "hi", "--max-tokens", "5")
    assert (result.code, result.out, result.err) == (0, "Hello\n", "")
    sent = json.loads(daemon.requests[0].body)
    assert sent == {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 5}


def test_a_question_may_come_on_stdin(daemon: FakeDaemon) -> None:
    daemon.on(CHAT, Reply(iter((token("yes", "stop"),)), type=SSE))
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "chat", "tiny"],
        input=b"is it?\n",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"yes\n")
    assert json.loads(daemon.requests[0].body)["messages"][0]["content"] == "is it?\n"


@pytest.mark.parametrize(
    "chunks",
    [
        (token("Hel"), None),
        (token("Hel"),),
        (token("Hel"), b'data: {"error": {"message": "the backend died"}}\n\n'),
        (token("Hel"), b"data: nonsense\n\n"),
    ],
)
def test_a_reply_that_breaks_off_is_a_failure(cli: Cli, daemon: FakeDaemon, chunks: tuple[bytes | None, ...]) -> None:
    daemon.on(CHAT, Reply(iter(chunks), type=SSE))
    result = cli("chat", "tiny", "hi")
    assert result.code in (1, 69)
    assert result.out == "Hel\n"
    assert len(result.err.splitlines()) == 1


def test_the_inference_key_is_used_and_named_when_refused(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.key = KEY
    daemon.on(CHAT, Reply(iter((token("ok", "stop"),)), type=SSE))
    result = cli("chat", "tiny", "hi")
    assert result.code == 77
    assert "LLAMACTL_INFERENCE_KEY" in result.err
    monkeypatch.setenv("LLAMACTL_INFERENCE_KEY", KEY)
    assert cli("chat", "tiny", "hi").code == 0


def test_an_unknown_model_is_1_in_the_proxys_words(cli: Cli, daemon: FakeDaemon) -> None:
    def refuse(_: Request) -> Reply:
        body = {
            "error": {"message": "there is no model nope", "type": "invalid_request_error", "code": "model_not_found"}
        }
        return Reply(body, 404)

    daemon.routes[CHAT] = refuse
    result = cli("chat", "nope", "hi")
    assert (result.code, result.err) == (1, "llamactl: there is no model nope\n")


def test_a_problem_of_the_log_route_is_told(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on(LOGS, problem(404, "there is no log of an earlier run of tiny"))
    assert cli("logs", "tiny", "--previous").err == "llamactl: there is no log of an earlier run of tiny\n"
