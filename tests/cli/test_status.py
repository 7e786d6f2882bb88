"""``status``: each form, the lines below the table, and that it follows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from reconciler.cli.output import columns, yaml_lines
from tests.cli.conftest import Cli
from tests.cli.fake import FakeDaemon, instance, replica, stalled, status

PROBLEM = {
    "file": "/etc/llamactl.yaml",
    "line": 7,
    "column": 3,
    "path": "instances.x",
    "message": "unknown key prot",
    "hint": "did you mean port?",
    "severity": "error",
    "source": None,
}


def test_the_table_is_aligned_and_says_the_main_things(cli: Cli, daemon: FakeDaemon) -> None:
    two = instance(
        "longer-name", phase="starting", ready=False, replicas=[replica("a#1"), replica("a#2", phase="starting")]
    )
    daemon.on("GET /api/v1/status", status(instance("tiny"), two))
    lines = cli("status").out.splitlines()
    assert lines[0].split() == ["NAME", "BACKEND", "STATE", "PHASE", "READY", "REPLICAS", "RESTARTS", "AGE", "PORT"]
    assert lines[1].split()[:6] == ["tiny", "simulator", "running", "ready", "yes", "1/1"]
    assert lines[2].split()[3:6] == ["starting", "no", "1/2"]
    assert lines[1].index("simulator") == lines[2].index("simulator")


def test_wide_shows_pids(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on(
        "GET /api/v1/status", status(instance("tiny", replicas=[replica("t#1", pid=4711), replica("t#2", pid=4712)]))
    )
    assert "4711,4712" in cli("status", "-o", "wide").out
    assert "4711" not in cli("status").out


def test_no_instances_is_said(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status())
    assert cli("status").out == "no instances\n"


def test_problems_of_the_file_follow_with_their_place(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(instance("tiny"), valid=False, problems=[PROBLEM]))
    result = cli("status")
    assert result.code == 0
    assert "the last good one stays in force" in result.out
    assert "/etc/llamactl.yaml:7:3: unknown key prot (did you mean port?)" in result.out.splitlines()


def test_a_held_edit_and_a_stalled_instance_are_said(cli: Cli, daemon: FakeDaemon) -> None:
    held = {"until": "2026-01-01T00:00:10Z", "removes": ["a", "b"], "reason": "most would stop"}
    daemon.on("GET /api/v1/status", status(stalled("bad"), held=held))
    out = cli("status").out
    assert "held until 2026-01-01T00:00:10Z: most would stop (it removes a, b)" in out
    assert "bad: stalled: 3 starts failed in a row" in out


def test_one_instance_and_its_names(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/instances/tiny", instance("tiny"))
    daemon.on("GET /api/v1/status", status(instance("tiny"), instance("other")))
    assert cli("status", "tiny").out.splitlines()[1].startswith("tiny ")
    assert json.loads(cli("status", "tiny", "-o", "json").out)["name"] == "tiny"
    assert cli("status", "-o", "name").out == "tiny\nother\n"


def test_yaml_is_the_same_data_as_json(cli: Cli, daemon: FakeDaemon) -> None:
    answer = status(instance("on"), stalled("no"), problems=[PROBLEM])
    daemon.on("GET /api/v1/status", answer)
    assert YAML(typ="safe", pure=True).load(cli("status", "-o", "yaml").out) == answer


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.text(max_size=12)
    | st.sampled_from(["no", "1e3", "~", "0x1", "-"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(JSON)
def test_any_json_survives_yaml(value: object) -> None:
    text = "\n".join(yaml_lines(value))  # type: ignore[arg-type]  # hypothesis knows no recursive types
    assert YAML(typ="safe", pure=True).load(text) == value


def test_columns_keep_their_width() -> None:
    assert list(columns([("a", "bb"), ("ccc", "d")])) == ["a    bb", "ccc  d"]


def test_watch_prints_at_each_change_and_ends_by_ctrl_c(daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(instance("tiny", phase="starting")), status(instance("tiny")))
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "status", "--watch", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    phases = [json.loads(process.stdout.readline())["instances"][0]["phase"] for _ in range(2)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (phases, process.returncode, err) == (["starting", "ready"], 0, b"")


@pytest.mark.parametrize(("verb", "word"), [("start", "enabled"), ("stop", "disabled"), ("restart", "restart")])
def test_start_stop_restart_ask_the_daemon(cli: Cli, daemon: FakeDaemon, verb: str, word: str) -> None:
    daemon.on(f"POST /api/v1/instances/tiny/{verb}", instance("tiny"))
    result = cli(verb, "tiny")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"tiny: {word}")
    assert json.loads(cli(verb, "tiny", "-o", "json").out)["name"] == "tiny"
