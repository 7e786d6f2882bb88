"""How each server starts and stops, and every fault: each does what it says and nothing else."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse, IncompleteRead

import psutil
import pytest

from tests.simulators import RunningSimulator, chat_body, left_by, running_simulator, until

LOADING = ("--load-seconds", "1.5")
SLOW = ("--token-delay-ms", "20")
LONG: dict[str, object] = chat_body(stream=True, max_tokens=100_000)


def read_tokens(response: HTTPResponse, count: int) -> None:
    """Reads on until so many token chunks have come."""
    seen = 0
    while seen < count + 1:  # the role chunk comes first
        line = response.readline()
        assert line, "the stream ended too soon"
        seen += line.startswith(b"data: ")


def port_is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def late_request(server: RunningSimulator, body: object = None) -> Iterator[None]:
    """A chat request whose answer nobody waits for; leaving disconnects."""
    connection = HTTPConnection("127.0.0.1", server.port)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body or chat_body()))
        yield
    finally:
        connection.close()


# --- starting ---------------------------------------------------------------------------------------------------


def test_vllm_refuses_its_port_until_loaded() -> None:
    port = free_port()
    with running_simulator("vllm", "--port", str(port), *LOADING, wait="no") as server:
        until(lambda: "Starting to load" in server.log(), "the load begins")
        assert not port_is_open(port)
        server.wait_listening()
        answer = server.get("/health")
        assert (answer.status, answer.body) == (200, b"")
        assert "Application startup complete" in server.log()


def test_llama_server_says_503_on_every_route_while_loading() -> None:
    with running_simulator("llama_cpp", *LOADING, wait="listening") as server:
        for answer in (server.get("/health"), server.chat(), server.get("/v1/models"), server.get("/nowhere")):
            assert answer.status == 503
            assert answer.json()["error"]["message"] == "Loading model"
        server.wait_ready()
        assert server.get("/health").json() == {"status": "ok"}
        assert server.stats()["requests"] == 0


def test_mlx_is_healthy_before_it_is_loaded_and_lets_completions_wait() -> None:
    with running_simulator("mlx_lm", *LOADING, wait="listening") as server:
        assert server.get("/health").status == 200
        assert not server.stats()["loaded"]
        assert server.chat(max_tokens=1).status == 200
        assert server.stats()["loaded"]


def test_a_load_lasts_as_long_as_it_was_told() -> None:
    started = time.monotonic()
    with running_simulator("vllm", "--load-seconds", "1"):
        assert time.monotonic() - started >= 1


@pytest.mark.parametrize(("extra", "code"), [((), 1), (("--exit-code", "3"), 3), (("--exit-code", "0"), 0)])
def test_a_start_can_fail(extra: tuple[str, ...], code: int) -> None:
    with running_simulator("vllm", "--fail-start", "--load-seconds", "0.1", *extra, wait="no") as server:
        assert server.wait() == code
        assert "Engine core initialization failed" in server.log()
        assert server.port == 0


def test_logging_outputs_without_requests_is_said_in_the_log() -> None:
    with running_simulator("vllm", "--enable-log-outputs") as server:
        assert "try adding --enable-log-requests" in server.log()


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "mlx_lm"])
def test_a_taken_port_ends_the_start(kind: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with running_simulator(kind, "--port", str(port), wait="no") as server:
            assert server.wait() == 1
            assert "Address already in use" in server.log()


# --- stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_exits_0_when_asked(kind: str, number: signal.Signals) -> None:
    with running_simulator(kind) as server:
        server.chat(max_tokens=1)
        server.signal(number)
        assert server.wait(deadline_s=5) == 0


def test_vllm_exits_0_when_asked_while_loading() -> None:
    with running_simulator("vllm", "--load-seconds", "60", wait="no") as server:
        until(lambda: "Starting to load" in server.log(), "the load begins")
        server.signal(signal.SIGTERM)
        assert server.wait(deadline_s=5) == 0


def test_vllm_cuts_open_streams_and_is_gone_in_half_a_second() -> None:
    with running_simulator("vllm", *SLOW) as server, server.opened("POST", "/v1/chat/completions", LONG) as stream:
        read_tokens(stream, 3)
        asked = time.monotonic()
        server.signal(signal.SIGTERM)
        with pytest.raises(IncompleteRead) as cut:
            stream.read()
        assert server.wait() == 0
        took = time.monotonic() - asked
        assert b'"finish_reason":"abort"' in cut.value.partial
        assert b"[DONE]" not in cut.value.partial
        assert took < 2  # 0.1 s on an idle machine; the bound only tells a cut from a wait


def test_vllm_leaves_though_nobody_reads_its_stream() -> None:
    body = chat_body(stream=True, max_tokens=100_000)
    with (
        running_simulator("vllm", "--response-pad", "100000") as server,
        server.opened("POST", "/v1/chat/completions", body) as stream,
    ):
        read_tokens(stream, 1)
        until(lambda: stalled(server), "the stream fills every buffer")
        server.signal(signal.SIGTERM)
        assert server.wait(deadline_s=5) == 0


def test_llama_server_waits_for_its_client_with_its_port_closed() -> None:
    with running_simulator("llama_cpp", *SLOW) as server:
        port = server.port
        with server.opened("POST", "/v1/chat/completions", LONG) as stream:
            read_tokens(stream, 3)
            server.signal(signal.SIGTERM)
            until(lambda: not port_is_open(port), "the port closes")
            assert server.process.poll() is None
            assert connection_is_silent(stream)
            assert server.process.poll() is None
        assert server.wait(deadline_s=5) == 0


def test_a_second_signal_ends_llama_server() -> None:
    with (
        running_simulator("llama_cpp", *SLOW) as server,
        server.opened("POST", "/v1/chat/completions", LONG) as stream,
    ):
        read_tokens(stream, 1)
        server.signal(signal.SIGTERM)
        until(lambda: "Shutting down" in server.log(), "the first signal arrives")
        server.signal(signal.SIGTERM)
        assert server.wait(deadline_s=5) == 1


def test_mlx_dies_at_once_of_the_signal_and_its_stream_ends_in_bare_eof() -> None:
    with running_simulator("mlx_lm", *SLOW) as server, server.opened("POST", "/v1/chat/completions", LONG) as stream:
        read_tokens(stream, 3)
        server.signal(signal.SIGTERM)
        assert b"[DONE]" not in stream.read()
        assert server.wait() == -signal.SIGTERM


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "mlx_lm"])
def test_sigterm_can_be_ignored(kind: str) -> None:
    with running_simulator(kind, "--ignore-sigterm") as server:
        server.signal(signal.SIGTERM)
        assert server.chat(max_tokens=1).status == 200
        assert psutil.Process(server.pid).is_running()
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL


# --- faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extra", "code"), [((), 0), (("--exit-code", "7"), 7)])
def test_it_exits_some_seconds_after_readiness(extra: tuple[str, ...], code: int) -> None:
    with running_simulator("vllm", "--exit-after-seconds", "0.5", *extra, wait="no") as server:
        assert server.wait() == code
        assert "Application startup complete" in server.log()


def test_it_exits_after_some_requests_each_answered_in_full() -> None:
    arguments = ("--exit-after-requests", "2", "--exit-code", "5", "--response-pad", "3000000")
    with running_simulator("vllm", *arguments) as server:
        for _ in range(2):
            assert server.process.poll() is None
            assert len(server.chat(max_tokens=2).body) > 3_000_000
        assert server.wait() == 5


def test_probes_are_not_requests() -> None:
    with running_simulator("vllm", "--exit-after-requests", "1") as server:
        for path in ("/health", "/v1/models", "/metrics"):
            assert server.get(path).status == 200
        assert server.process.poll() is None


def test_a_hung_engine_answers_probes_and_nothing_else() -> None:
    with running_simulator("vllm", "--hang-after-requests", "2", *SLOW) as server:
        assert server.chat(max_tokens=1).status == 200
        with server.opened("POST", "/v1/chat/completions", LONG) as before:
            read_tokens(before, 3)
            with late_request(server):
                until(lambda: server.stats()["requests"] == 3, "the request that hangs arrives")
                assert connection_is_silent(before)
                tokens = server.stats()["tokens"]
                assert server.get("/health").status == 200
                metrics = server.get("/metrics").body.decode()
                assert f'vllm:generation_tokens_total{{engine="0",model_name="tiny"}} {tokens}' in metrics
                assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 2' in metrics
                assert server.stats()["tokens"] == tokens


def test_it_dies_in_mid_stream() -> None:
    with (
        running_simulator("vllm", "--die-mid-stream-after", "3") as server,
        server.opened("POST", "/v1/chat/completions", LONG) as stream,
        pytest.raises(IncompleteRead) as cut,
    ):
        stream.read()
    assert cut.value.partial.count(b'"content":') == 4  # the role chunk and three tokens
    assert server.process.returncode == -signal.SIGKILL


def test_it_dies_in_mid_stream_with_the_code_it_was_given() -> None:
    with running_simulator("mlx_lm", "--die-mid-stream-after", "3", "--exit-code", "9") as server:
        assert b"[DONE]" not in server.chat(stream=True, max_tokens=10).body
        assert server.wait() == 9


def test_a_shorter_stream_is_not_cut() -> None:
    with running_simulator("vllm", "--die-mid-stream-after", "3") as server:
        assert server.chat(stream=True, max_tokens=3).events()[-1] == "[DONE]"
        assert server.chat(max_tokens=10).status == 200


def test_tokens_come_at_the_pace_that_was_set() -> None:
    with running_simulator("vllm", "--ttft-ms", "150", "--token-delay-ms", "30") as server:
        for stream in (True, False):
            started = time.monotonic()
            server.chat(stream=stream, max_tokens=5)
            assert time.monotonic() - started >= 0.150 + 4 * 0.030


def test_tokens_are_sent_one_by_one_as_they_come() -> None:
    with (
        running_simulator("vllm", "--token-delay-ms", "1000") as server,
        server.opened("POST", "/v1/chat/completions", LONG) as stream,
    ):
        read_tokens(stream, 1)
        assert server.stats()["tokens"] <= 2
        assert server.stats()["in_flight"] == 1


def test_lines_are_logged_at_the_rate_that_was_set() -> None:
    with running_simulator("vllm", "--log-lines-per-second", "2000", "--load-seconds", "30", wait="no") as server:
        until(lambda: server.log().count("simulated engine step") > 1000, "the log fills")


@pytest.mark.parametrize("kind", ["vllm", "llama_cpp", "mlx_lm"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_tokens(kind: str, *, stream: bool) -> None:
    with running_simulator(kind, "--token-delay-ms", "5") as server:
        body = LONG if stream else chat_body(max_tokens=100_000)
        if stream:
            with server.opened("POST", "/v1/chat/completions", body) as answer:
                read_tokens(answer, 2)
                assert server.stats()["in_flight"] == 1
        else:
            with late_request(server, body):
                until(lambda: server.stats()["tokens"] > 2, "tokens are made")
        until(lambda: server.stats()["aborted"] == 1, "the server sees that its client left", deadline_s=5)
        stats = server.stats()
        assert stats["in_flight"] == 0
        assert server.stats()["tokens"] == stats["tokens"]


def test_a_slow_reader_holds_the_engine_back_and_memory_stays_flat() -> None:
    body = chat_body(stream=True, max_tokens=100_000)
    with (
        running_simulator("vllm", "--response-pad", "100000") as server,
        server.opened("POST", "/v1/chat/completions", body) as stream,
    ):
        read_tokens(stream, 1)
        until(lambda: stalled(server), "the stream fills every buffer")
        assert server.stats()["tokens"] < 1000  # of the 10 GB asked for, only what sockets hold was made
        assert psutil.Process(server.pid).memory_info().rss < 300_000_000


# --- children ---------------------------------------------------------------------------------------------------


def test_children_are_of_three_kinds_and_outlive_sigterm_and_their_parent() -> None:
    with running_simulator("vllm", "--children", "4") as server:
        kinds = [kind for _, kind in server.children()]
        assert kinds == ["plain", "session", "double_forked", "plain"]
        assert [child["pid"] for child in server.stats()["children"]] == [pid for pid, _ in server.children()]
        found = {process.pid: process for process in left_by(server.pid)}
        assert set(found) == {pid for pid, _ in server.children()}
        for pid, kind in server.children():
            assert (os.getsid(pid) == os.getsid(server.pid)) == (kind == "plain")
            assert (found[pid].ppid() == server.pid) == (kind != "double_forked")
            os.kill(pid, signal.SIGTERM)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert {process.pid for process in left_by(server.pid)} == set(found)
    assert left_by(server.pid) == []


def test_children_exist_before_readiness() -> None:
    with running_simulator("llama_cpp", "--children", "3", "--load-seconds", "60", wait="listening") as server:
        assert len(left_by(server.pid)) == 3
        assert not server.stats()["loaded"]


# --- what the tests above look with -----------------------------------------------------------------------------


def connection_is_silent(stream: HTTPResponse, *, for_s: float = 0.3) -> bool:
    """Whether nothing arrives on a stream any more: it falls silent, for fifteen token delays, before a deadline."""
    connection = socket.socket(fileno=os.dup(stream.fileno()))
    end = time.monotonic() + 10
    try:
        while time.monotonic() < end:
            connection.settimeout(for_s)
            try:
                if connection.recv(65536) == b"":
                    return False
            except TimeoutError:
                return True
        return False
    finally:
        connection.close()


def stalled(server: RunningSimulator) -> bool:
    """Whether tokens were made, and none during a tenth of a second."""
    before = server.stats()["tokens"]
    time.sleep(0.1)
    return bool(before) and server.stats()["tokens"] == before
