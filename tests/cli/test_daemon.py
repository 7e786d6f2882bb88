"""``up``, ``down`` and ``demo``: with the real daemon, and nothing left behind whatever the end is."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from reconciler.cli.stage import free_port
from tests.cli.conftest import Cli
from tests.cli.fake import FakeDaemon, Reply, instance, problem, status

FILE = """\
instances:
  tiny:
    backend_type: simulator
    backend_options: { model: tiny }
"""


def nothing_left(folder: Path) -> None:
    """No process of the test lives; one that is just exiting has a moment to finish."""
    deadline = time.monotonic() + 5
    while left := ours(folder):
        assert time.monotonic() < deadline, f"left behind: {[each.cmdline() for each in left]}"
        time.sleep(0.02)


def until(reached: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def ours(mark: Path) -> list[psutil.Process]:
    """Processes that know a folder of this test by name."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = [*(process.info["cmdline"] or ()), *(process.info["environ"] or {}).values()]
        if process.pid != os.getpid() and any(str(mark) in word for word in words):
            found.append(process)
    return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real daemon with one simulator."""
    file = tmp_path / "llamactl.yaml"
    file.write_text(FILE)
    command = [sys.executable, "-m", "reconciler", "up", "-f", str(file), "--port", str(free_port())]
    environ = os.environ | {"CLI_TEST_FOLDER": str(tmp_path / "state")}  # its backends inherit what names it
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_the_main_job_by_its_commands(cli: Cli, running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    until(lambda: cli("status").code == 0, "a daemon that answers")
    assert cli("wait", "tiny", "--for", "ready", "--timeout", "30s").code == 0
    assert "tiny" in cli("status", "-o", "wide").out
    assert cli("chat", "tiny", "hello there", "--max-tokens", "2").out == "hello there\n"
    assert cli("logs", "tiny").code == 0
    assert "tiny" in cli("events").out
    file = tmp_path / "llamactl.yaml"
    file.write_text(FILE.replace("tiny }", "tiny, ttft-ms: 1 }"))
    other = tmp_path / "other.yaml"
    other.write_text(FILE + "  second: { backend_type: simulator }\n")
    assert cli("plan", "-f", str(other), "--detailed-exitcode").code == 2
    applied = cli("apply", "-f", str(other), "--timeout", "30s")
    assert applied.code == 0, applied.err
    assert file.read_text() == other.read_text()
    assert cli("plan", "-f", str(other), "--detailed-exitcode").code == 0
    assert cli("stop", "second").code == 0
    assert cli("wait", "second", "--for", "stopped", "--timeout", "30s").code == 0
    assert "enabled: false" in file.read_text()
    result = cli("down")
    assert result.code == 0, result.err
    out, _ = running.communicate(timeout=30)
    assert (running.returncode, out) == (0, b"")
    nothing_left(tmp_path / "state")
    assert cli("status").code == 69
    assert cli("down").out.startswith("nothing to stop")


def test_what_a_killed_daemon_left_is_ended_by_down(cli: Cli, running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    until(lambda: cli("status").code == 0, "a daemon that answers")
    assert cli("wait", "tiny", "--for", "ready", "--timeout", "30s").code == 0
    running.kill()
    running.wait(30)
    assert ours(tmp_path / "state")
    result = cli("down")
    assert (result.code, result.out) == (0, "stopped 1 instance\n")
    nothing_left(tmp_path / "state")


def test_up_refuses_a_broken_or_missing_file(cli: Cli, tmp_path: Path) -> None:
    assert cli("up", "-f", str(tmp_path / "nope.yaml")).code == 66
    broken = tmp_path / "broken.yaml"
    broken.write_text("instances: {a: {backend_type: vlm}}\n")
    result = cli("up", "-f", str(broken))
    assert (result.code, result.out) == (65, "")
    assert "broken.yaml:1:" in result.err
    assert "^" in result.err


def test_down_under_systemd_refuses_and_says_what_to_do(cli: Cli, daemon: FakeDaemon) -> None:
    answer = status(instance("tiny"))
    daemon.on("GET /api/v1/status", answer | {"daemon": {"systemd": True}})
    result = cli("down")
    assert result.code == 1
    assert "systemctl stop llamactl" in result.err
    assert not daemon.asked("POST /api/v1/down")


def test_down_elsewhere_ends_when_nobody_answers_any_more(cli: Cli, daemon: FakeDaemon) -> None:
    gone = Reply(b"", headers={"Content-Length": "1"})
    daemon.on("GET /api/v1/status", status(instance("tiny")), status(instance("tiny", phase="draining")), gone)
    daemon.on("POST /api/v1/down", Reply({"stopping": 1}, 202))
    result = cli("down")
    assert (result.code, result.out) == (0, "stopped 1 instance and the daemon\n")
    assert "tiny: draining" in result.err


def test_down_times_out_with_124(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(instance("tiny", phase="draining")))
    daemon.on("POST /api/v1/down", Reply({"stopping": 1}, 202))
    assert cli("down", "--timeout", "200ms").code == 124


def test_a_refused_down_is_told(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status())
    daemon.on("POST /api/v1/down", problem(409, "an update is on its way"))
    assert cli("down").err == "llamactl: an update is on its way\n"


def demo(tmp_path: Path, *argv: str) -> subprocess.Popen[str]:
    """The demo, with its temporary folder where the test can see it."""
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "reconciler", "demo", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def test_the_demo_shows_that_only_the_edited_instance_is_touched_and_leaves_nothing(tmp_path: Path) -> None:
    process = demo(tmp_path, "--once")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "3 to create" in out
    assert "Every word of this reply" in out
    assert "1 to replace" in out
    pids = re.findall(r"pid (\d+) -> pid (\d+)", out)
    assert [before == after for before, after in pids] == [False, True, True]
    assert 40 <= len(out.splitlines()) <= 70
    assert not list(tmp_path.glob("llamactl-demo-*"))
    nothing_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_stays_ends_by_a_signal_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = demo(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("    curl "):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "nothing is left behind" in out
    assert not list(tmp_path.glob("llamactl-demo-*"))
    nothing_left(tmp_path)


def test_a_demo_that_is_interrupted_at_its_start_leaves_nothing(tmp_path: Path) -> None:
    process = demo(tmp_path, "--once")
    until(lambda: list(tmp_path.glob("llamactl-demo-*/daemon.log")), "the daemon's log")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("llamactl-demo-*"))
    nothing_left(tmp_path)


def test_a_demo_whose_port_is_taken_says_why_and_leaves_nothing(tmp_path: Path, daemon: FakeDaemon) -> None:
    process = demo(tmp_path, "--once", "--port", daemon.url.rpartition(":")[2])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot listen" in err
    assert "Traceback" not in err + out
    assert not list(tmp_path.glob("llamactl-demo-*"))
    nothing_left(tmp_path)
