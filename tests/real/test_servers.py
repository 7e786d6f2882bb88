"""From a YAML file to a streamed answer and away again, on the real vLLM, llama-server and mlx_lm.server.

One at a time (one xdist group): each of them fills two cores while it starts.
"""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from tests.daemons import Daemon
from tests.real.conftest import Declare
from tests.real.servers import LLAMA_CPP, MLX_LM, SERVERS, VLLM, Declared, RealServer, fleet_text

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real"), pytest.mark.timeout(600)]

TOKENS = 24
REFUSAL = "--enable-log-outputs requires --enable-log-requests"
"""What vLLM 0.32 says before it exits with 1, about 8 s after its start."""


def assert_streams(daemon: Daemon, name: str) -> None:
    """A chat with this name, streamed through the proxy, is whole: chunks, usage, `[DONE]`."""
    reply = daemon.chat(name, max_tokens=TOKENS)
    assert reply.status == 200, reply.raw
    assert reply.content_type.startswith("text/event-stream"), reply.content_type
    assert reply.ended, f"the stream did not end with [DONE]: {reply.raw[-500:]}"
    assert reply.content_chunks >= 3, f"{reply.content_chunks} chunks are no stream: {reply.raw}"
    assert reply.text.isprintable(), repr(reply.text)
    assert reply.text
    assert reply.usage is not None, reply.raw
    assert reply.usage["completion_tokens"] == TOKENS


def replica_pid(daemon: Daemon, name: str) -> int:
    """The one replica's process id, from status."""
    replicas = daemon.instance(name)["replicas"]
    assert len(replicas) == 1, replicas
    pid: int = replicas[0]["pid"]
    return pid


def assert_status_is_true(daemon: Daemon, declared: Declared) -> None:
    """What status says of an instance is what the machine shows."""
    instance = daemon.instance(declared.name)
    assert instance["phase"] == "ready", instance
    assert instance["ready"] is True
    assert instance["restarts"] == 0
    assert len(instance["replicas"]) == 1, instance
    replica = instance["replicas"][0]
    assert replica["phase"] == "ready"
    assert replica["adopted"] is False
    command = psutil.Process(replica["pid"]).cmdline()
    assert any(Path(word).name == declared.server.program for word in command), command
    assert str(declared.model) in command
    assert command[command.index("--port") + 1] == str(replica["port"]), command
    assert command[command.index("--host") + 1] == "127.0.0.1", command


def assert_nothing_is_left(daemon: Daemon) -> None:
    """No process of this test lives, and none that serves from its cache for it."""
    left = daemon.left_over()
    assert not left, "processes were left behind:\n" + "\n".join(left)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.backend_type)
def test_a_file_becomes_a_streamed_answer_and_leaves_nothing(
    server: RealServer, daemon: Daemon, declare: Declare
) -> None:
    declared = declare(f"real-{server.component.replace('_', '-')}", server)
    daemon.file.write_text(fleet_text(port=daemon.port, instances=(declared,)))
    checked = daemon.run("validate", str(daemon.file))
    assert checked.code == 0, checked.text

    daemon.up()
    daemon.wait_ready(declared.name, server.ready_within_s)
    assert daemon.get("/readyz")[0] == 200
    assert_status_is_true(daemon, declared)
    status, models = daemon.get("/v1/models")
    assert status == 200
    assert declared.name in [model["id"] for model in json.loads(models)["data"]]
    assert_streams(daemon, declared.name)

    daemon.down()
    assert_nothing_is_left(daemon)


def test_an_edit_replaces_only_the_server_that_was_edited(daemon: Daemon, declare: Declare) -> None:
    kept, edited = declare("kept", MLX_LM), declare("edited", LLAMA_CPP)
    daemon.file.write_text(fleet_text(port=daemon.port, instances=(kept, edited)))
    daemon.up()
    for declared in (kept, edited):
        daemon.wait_ready(declared.name, declared.server.ready_within_s)
    before = {name: replica_pid(daemon, name) for name in ("kept", "edited")}

    changed = declare("edited", LLAMA_CPP.with_options(ctx_size=2048))
    daemon.file.write_text(fleet_text(port=daemon.port, instances=(kept, changed)))

    def replaced() -> bool:
        instance = daemon.instance("edited")
        pids = [replica["pid"] for replica in instance["replicas"]]
        return bool(instance["ready"]) and len(pids) == 1 and before["edited"] not in pids

    daemon.until(replaced, what="the edited server to be replaced", deadline_s=90.0)
    assert replica_pid(daemon, "kept") == before["kept"]
    assert not psutil.pid_exists(before["edited"])
    command = psutil.Process(replica_pid(daemon, "edited")).cmdline()
    assert command[command.index("--ctx-size") + 1] == "2048", command
    for name in ("kept", "edited"):
        assert_streams(daemon, name)
    daemon.down()
    assert_nothing_is_left(daemon)


def test_what_vllm_refuses_is_warned_of_shown_and_cured(daemon: Daemon, declare: Declare) -> None:
    refused = declare("chatty", VLLM.with_options(enable_log_outputs=True))
    daemon.file.write_text(fleet_text(port=daemon.port, instances=(refused,)))
    checked = daemon.run("validate", str(daemon.file))
    assert checked.code == 0, f"a pair that this version refuses is a warning: {checked.text}"
    assert "enable_log_outputs" in checked.text.replace("-", "_")
    assert "enable_log_requests" in checked.text.replace("-", "_"), "the cure is not named"

    daemon.up()
    daemon.until(
        lambda: daemon.instance("chatty")["last_exit"] is not None, what="vLLM to refuse its options", deadline_s=120.0
    )
    instance = daemon.instance("chatty")
    assert instance["ready"] is False
    assert instance["last_exit"]["code"] == 1, instance
    assert REFUSAL in json.dumps(instance["last_exit"]), instance

    cured = declare("chatty", VLLM.with_options(enable_log_outputs=True, enable_log_requests=True))
    daemon.file.write_text(fleet_text(port=daemon.port, instances=(cured,)))
    daemon.wait_ready("chatty", VLLM.ready_within_s)
    assert_streams(daemon, "chatty")
    daemon.down()
    assert_nothing_is_left(daemon)


def test_stopping_while_vllm_starts_does_not_hang(daemon: Daemon, declare: Declare) -> None:
    """vLLM ignores SIGTERM once its engine process is up and it is not yet serving; down must end it all the same."""
    declared = declare("starting", VLLM)
    daemon.file.write_text(fleet_text(port=daemon.port, instances=(declared,)))
    daemon.up()

    def engine_is_up() -> bool:
        replicas = daemon.instance("starting")["replicas"]
        if not replicas:
            return False
        children = psutil.Process(replicas[0]["pid"]).children(recursive=True)
        return any(child.name().startswith("VLLM::") for child in children)

    daemon.until(engine_is_up, what="vLLM's engine process", deadline_s=120.0)
    daemon.down()
    assert_nothing_is_left(daemon)


def test_a_model_that_mlx_cannot_load_is_never_called_ready(daemon: Daemon, declare: Declare, tmp_path: Path) -> None:
    """mlx_lm.server lives on without its model, and answers 503 for ever; status must not call that ready."""
    good = declare("empty", MLX_LM)
    nothing = tmp_path / "no-model"
    nothing.mkdir()
    broken = Declared(good.name, good.server, good.executable, nothing)
    daemon.file.write_text(fleet_text(port=daemon.port, instances=(broken,)))
    daemon.up()
    daemon.until(lambda: _has_failed(daemon, "empty"), what="the failure to show in status", deadline_s=60.0)
    assert daemon.get("/readyz")[0] == 503
    daemon.down()
    assert_nothing_is_left(daemon)


def _has_failed(daemon: Daemon, name: str) -> bool:
    """Whether status speaks of a failed start; it must never speak of readiness."""
    instance = daemon.instance(name)
    assert instance["ready"] is False, instance
    return instance["last_exit"] is not None or instance["phase"] in ("backoff", "failed")
