"""Obligations of `import processes`: real servers are found and left alone, workers and our own left out, nothing secret said."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler import app
from reconciler.config.importers import discover
from reconciler.config.importers.contract import Imported
from reconciler.config.importers.processes import Processes
from reconciler.host.processes import Details, Running
from tests.config.importers.imported import SECRET, imported

SERVER = f"""#!{sys.executable}
import os, socket, time
listener = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    time.sleep(600)
print(listener.getsockname()[1], flush=True)
time.sleep(600)
"""


@contextmanager
def serving(
    folder: Path, program: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[int, int]]:
    """A script of this name with a worker of its own; its pid and port. Both end with the block."""
    script = folder / program
    script.write_text(SERVER)
    script.chmod(0o755)
    with subprocess.Popen(
        [script, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            os.killpg(process.pid, 9)


def unique() -> str:
    """A model that no other test serves."""
    return f"m{uuid.uuid4().hex}"


def test_a_running_server_becomes_an_instance_and_goes_on_running(tmp_path: Path) -> None:
    model = unique()
    (tmp_path / f"{model}.gguf").touch()
    given = {"CUDA_VISIBLE_DEVICES": "1", "HF_TOKEN": SECRET, "EDITOR": "vi", "LLAMA_ARG_THREADS": "4"}
    with serving(tmp_path, "llama-server", "-m", f"{model}.gguf", "-c", "4096", environment=given) as (pid, port):
        result = imported("processes", "", name="processes")
        os.kill(pid, 0)
    mine = {name: body for name, body in result.instances.items() if model in name}
    assert list(mine) == [model], "its worker is no instance"
    body = mine[model]
    assert body["backend_type"] == "llama_cpp"
    assert body["backend_options"] == {"model": f"{model}.gguf", "ctx_size": 4096}
    assert str(body["executable"]).endswith(str(tmp_path / "llama-server"))
    assert body["working_directory"] == str(tmp_path), "its model is relative to that"
    assert body["environment"] == {"CUDA_VISIBLE_DEVICES": "1", "LLAMA_ARG_THREADS": "4", "HF_TOKEN": "${HF_TOKEN}"}
    assert SECRET not in result.everything
    why = " ".join(lost.why for lost in result.losses(f"pid {pid} "))
    assert f"holds port {port}" in why
    assert any(f"(pid {pid})" in str(lost.cure) for lost in result.losses(f"pid {pid} "))


def test_a_server_of_llamactls_own_is_left_out(tmp_path: Path) -> None:
    model = unique()
    with serving(tmp_path, "vllm", "serve", model, environment={"LLAMACTL_TOKEN": "x"}) as (pid, _):
        result = imported("processes", "", name="processes")
    assert not [name for name in result.instances if model in name]
    assert "llamactl runs it already" in result.loss(f"pid {pid}").why


def test_two_servers_of_one_model_are_told_apart_by_their_ports(tmp_path: Path) -> None:
    model = unique()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with serving(tmp_path / "a", "vllm", "serve", model), serving(tmp_path / "b", "vllm", "serve", model) as (_, port):
        result = imported("processes", "", name="processes")
    mine = [name for name in result.instances if model in name]
    assert mine == [model, f"{model}-{port}"]


# -- what no test may start for real ------------------------------------------------------------------------------------

SEEN = Details(
    user="llm", directory="/srv", environment={}, ports=(8000,), contained=False, service=None, files=frozenset()
)


def process(pid: int, command: str | None, *, parent: int = 1, started: float | None = None) -> Running:
    """One of a made-up host."""
    argv = None if command is None else tuple(command.split())
    return Running(pid=pid, parent=parent, started=pid if started is None else started, argv=argv)


def looked(*running: Running, details: Mapping[int, Details | None] | None = None) -> Imported:
    """What is imported from that host."""
    importer = Processes(running=lambda: running, details=lambda one: (details or {}).get(one.pid, SEEN))
    environ = {"HOME": "/nowhere"}
    return importer.read(b"", name="", understand=app.understand(environ), unknown=app.unknown(environ))


def told(result: Imported) -> str:
    """Everything lost, as text."""
    return "\n".join(f"{lost.what}: {lost.why} ({lost.cure})" for lost in result.lost)


OTHERS = (
    "-bash",
    "bash -c sleep",
    "/usr/bin/ssh host uptime",
    "sbin/init",
    "bin/thing --port 80",
    "serve dist",
    "python3 -m http.server",
    "python3 /srv/app.py",
    "vim llama-server.log",
    "tmux new",
    "docker run redis",
    "node /usr/bin/x",
    "",
)


@pytest.mark.parametrize("command", OTHERS)
def test_whatever_else_runs_is_no_news(command: str) -> None:
    result = looked(process(5, command))
    assert not result.drafts
    assert not result.lost


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("sudo /usr/bin/vllm serve m", "/usr/bin/python3 /usr/bin/vllm serve m"),
        ("uv run vllm serve m", "/usr/bin/python3 /usr/bin/vllm serve m"),
        ("/usr/bin/python3 /usr/bin/vllm serve m", "/usr/bin/python3 /usr/bin/vllm serve m"),
        ("/usr/bin/vllm serve m", "VLLM::EngineCore"),
    ],
)
def test_one_server_in_several_processes_is_one_instance(above: str, below: str) -> None:
    result = looked(process(5, above), process(6, below, parent=5))
    assert [draft.name for draft in result.drafts] == ["m"]
    assert "not carried over" not in told(result).replace("are not carried over", "")


def test_a_server_behind_what_cannot_be_read_is_told() -> None:
    result = looked(process(5, "docker run --network bridge -p 8000:8000 vllm/vllm-openai --model m"))
    assert not result.drafts
    assert result.lost[0].what == "pid 5"
    assert result.lost[0].cure


def test_a_server_in_a_container_is_told_and_its_paths_are_not_taken_for_this_hosts() -> None:
    inside = Details(
        user="root", directory="/", environment={}, ports=(), contained=True, service=None, files=frozenset()
    )
    result = looked(process(5, "/usr/bin/vllm serve m"), details={5: inside})
    assert not result.drafts
    assert "runs in a container" in told(result)


def test_what_runs_below_our_supervisor_is_left_out() -> None:
    shim = process(4, "python -I -S /opt/lib/reconciler/runtimes/_shim.py x")
    result = looked(shim, process(5, "/usr/bin/vllm serve m", parent=4))
    assert not result.drafts
    assert "llamactl runs it already" in told(result)


def test_what_may_not_be_read_is_told() -> None:
    closed = Details(
        user="other", directory=None, environment=None, ports=(), contained=False, service=None, files=frozenset()
    )
    result = looked(process(4, None), process(5, "/usr/bin/vllm serve m"), details={5: closed})
    assert [draft.name for draft in result.drafts] == ["m"]
    assert "it belongs to other" in told(result)
    assert "its folder may not be read" in told(result)
    assert "1 processes of other users" in told(result)


def test_a_server_of_a_unit_is_stopped_by_its_unit() -> None:
    own = Details(
        user="llm", directory="/", environment={}, ports=(), contained=False, service="vllm.service", files=frozenset()
    )
    assert "by its unit vllm.service" in told(looked(process(5, "/usr/bin/vllm serve m"), details={5: own}))


def test_a_process_that_ends_meanwhile_is_no_instance() -> None:
    assert looked(process(5, "/usr/bin/vllm serve m"), details={5: None}) == Imported(drafts=())


def test_instances_come_in_the_order_of_their_starts() -> None:
    names = [draft.name for draft in looked(process(9, "vllm serve a"), process(3, "vllm serve b")).drafts]
    assert names == ["a", "b"], "as the host gave them: oldest first"


def test_secrets_of_a_command_line_are_not_said() -> None:
    line = f"/usr/bin/vllm serve m --api-key {SECRET} --made-up-token {SECRET} --hf-token {SECRET}"
    result = looked(process(5, line))
    assert SECRET not in told(result)
    assert SECRET not in str(result.drafts[0].body)


SIMULATORS = (
    "/usr/bin/python3 /opt/venv/bin/llamactl simulate vllm serve m",
    "llamactl simulate llama_cpp -m m.gguf",
    "/usr/bin/python3 -I -m reconciler.simulator mlx_lm --model m",
    "python3 -m reconciler simulate vllm serve m",
    "uv run llamactl simulate vllm serve m",
)


@pytest.mark.parametrize("command", SIMULATORS)
def test_a_simulator_is_told_to_be_one(command: str) -> None:
    result = looked(process(5, command), process(6, SIMULATORS[0], parent=5))
    assert not result.drafts
    assert [lost.what for lost in result.lost] == ["pid 5"]
    assert "llamactl's simulator of " in result.lost[0].why


def test_a_simulator_that_llamactl_runs_is_left_out_as_any_server_of_its_own() -> None:
    own = Details(
        user="llm",
        directory="/",
        environment={"LLAMACTL_TOKEN": "x"},
        ports=(),
        contained=False,
        service=None,
        files=frozenset(),
    )
    assert "llamactl runs it already" in told(looked(process(5, SIMULATORS[0]), details={5: own}))


def test_variables_that_are_llamactls_to_say_are_told_and_left_out() -> None:
    given = {"LLAMA_ARG_PORT": "8000", "LLAMA_ARG_HOST": "0.0.0.0", "LLAMA_API_KEY": SECRET, "LLAMA_ARG_THREADS": "4"}
    seen = Details(
        user="llm", directory="/", environment=given, ports=(8000,), contained=False, service=None, files=frozenset()
    )
    result = looked(process(5, "/usr/bin/llama-server -m x.gguf"), details={5: seen})
    assert result.drafts[0].body["environment"] == {"LLAMA_ARG_THREADS": "4"}
    for name in ("LLAMA_ARG_PORT", "LLAMA_ARG_HOST", "LLAMA_API_KEY"):
        assert f"pid 5 x {name}: " in told(result)
    assert SECRET not in told(result)


def test_the_file_says_that_it_is_from_running_servers(tmp_path: Path) -> None:
    with serving(tmp_path, "vllm", "serve", unique()):
        text = imported("processes", "", name="processes").written.text
    assert "`llamactl import processes` from the servers running on this host" in text


def test_it_needs_no_file() -> None:
    importer = discover()["processes"]
    assert not importer.needs_file
