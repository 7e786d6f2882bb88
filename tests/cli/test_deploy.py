"""``plan``, ``apply`` and ``wait``: what they send, how they wait, how they end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler.cli import waiting
from tests.cli.conftest import Cli
from tests.cli.fake import FakeDaemon, Reply, arrived, instance, problem, replica, stalled, starting, status

TEXT = "instances: {}\n"
PLAN = {
    "schema_version": 1,
    "fingerprint": "f" * 16,
    "pending": True,
    "changes": [
        {
            "instance": "tiny",
            "kind": "replace",
            "cause": "ttft changed",
            "fields": [{"path": "backend_options.ttft_ms", "before": 1, "after": None}],
        },
        {"instance": "new", "kind": "create", "cause": "not running", "fields": []},
    ],
    "steps": [{"do": "start", "replica": "tiny#2", "text": "start  tiny#2 at bbb: ttft changed"}],
    "warnings": [],
}
NOTHING = {**PLAN, "pending": False, "changes": [], "steps": []}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A user's file."""
    path = tmp_path / "llamactl.yaml"
    path.write_text(TEXT)
    return path


def accepted(*changed: str, removed: tuple[str, ...] = ()) -> dict[str, object]:
    """The answer to a PUT of the file."""
    return {"generation": 2, "etag": "e", "changed": list(changed), "removed": list(removed), "warnings": []}


def test_plan_tells_changes_fields_and_steps(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("POST /api/v1/plan", PLAN)
    result = cli("plan", "-f", str(file))
    assert result.code == 0
    assert result.out.splitlines() == [
        "~ tiny  replace",
        "    backend_options.ttft_ms: 1 -> none",
        "+ new   create  not running",
        "steps:",
        "  start  tiny#2 at bbb: ttft changed",
        "1 to replace, 1 to create",
    ]
    sent = daemon.asked("POST /api/v1/plan")[0]
    assert (sent.body.decode(), sent.headers["Content-Type"]) == (TEXT, "application/yaml")


def test_plan_ends_with_2_only_when_asked_and_pending(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("POST /api/v1/plan", PLAN)
    assert cli("plan", "-f", str(file), "--detailed-exitcode").code == 2
    assert json.loads(cli("plan", "-f", str(file), "-o", "json").out) == PLAN
    daemon.on("POST /api/v1/plan", NOTHING)
    result = cli("plan", "-f", str(file), "--detailed-exitcode")
    assert (result.code, result.out) == (0, "nothing to change\n")


def test_plan_without_a_file_asks_about_the_daemons_own(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("POST /api/v1/plan", NOTHING)
    assert cli("plan").code == 0
    assert daemon.asked("POST /api/v1/plan")[0].body == b""
    Path("llamactl.yaml").write_text("instances: {a: {}}\n")
    cli("plan")
    assert daemon.asked("POST /api/v1/plan")[1].body == b"instances: {a: {}}\n"


def test_plan_with_a_named_daemon_that_is_not_there_is_69(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.close()
    assert cli("plan", "-f", str(file)).code == 69


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_a_file_that_cannot_be_read_is_66(cli: Cli, daemon: FakeDaemon, command: str, tmp_path: Path) -> None:
    result = cli(command, "-f", str(tmp_path / "nope.yaml"))
    assert result.code == 66
    assert "nope.yaml" in result.err
    os.mkfifo(tmp_path / "fifo.yaml")
    assert cli(command, "-f", str(tmp_path / "fifo.yaml")).code == 66
    assert not daemon.requests


def test_a_folder_is_not_applied(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    result = cli("apply", "-f", str(file.parent))
    assert result.code == 1
    assert "folder" in result.err


def test_apply_waits_until_what_it_changed_is_ready_at_the_new_generation(
    cli: Cli, daemon: FakeDaemon, file: Path
) -> None:
    daemon.on("PUT /api/v1/config", accepted("tiny"))
    old, bystander = instance("tiny"), stalled("bystander")
    daemon.on(
        "GET /api/v1/status",
        status(old, bystander),
        status(old, bystander, generation=2),
        status(starting("tiny"), bystander, generation=2),
        status(arrived("tiny"), bystander, generation=2),
    )
    result = cli("apply", "-f", str(file))
    assert result.code == 0
    assert result.out == "generation 2: changed tiny\n"
    assert result.err.splitlines() == [
        "tiny: accepted, not looked at yet",
        "tiny: ready at the old revision, the new one is starting",
        "tiny: ready",
    ]
    assert daemon.asked("PUT /api/v1/config")[0].body.decode() == TEXT


def test_apply_is_done_while_old_processes_finish_their_streams(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    old_one = starting("tiny")["replicas"][0] | {"phase": "draining"}  # type: ignore[index]  # a list of replicas
    both = starting("tiny", replicas=[old_one, *arrived("tiny")["replicas"]])  # type: ignore[misc]  # see above
    daemon.on("PUT /api/v1/config", accepted("tiny"))
    daemon.on("GET /api/v1/status", status(instance("tiny")), status(both, generation=2))
    assert cli("apply", "-f", str(file)).code == 0


def test_on_demand_and_disabled_count_once_accepted(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    idle = {"phase": "stopped", "ready": False, "replicas": [], "generation": 2, "observed_generation": 2}
    daemon.on("PUT /api/v1/config", accepted("a", "b"))
    fleet = (instance("a", state="on_demand", **idle), instance("b", state="disabled", **idle))
    daemon.on("GET /api/v1/status", status(), status(*fleet, generation=2))
    result = cli("apply", "-f", str(file))
    assert result.code == 0
    assert "a: accepted (on demand)" in result.err


def test_a_removed_instance_is_waited_for_until_it_is_gone(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("PUT /api/v1/config", accepted(removed=("tiny",)))
    leaving = instance("tiny", state="removed", phase="draining")
    daemon.on("GET /api/v1/status", status(instance("tiny")), status(leaving, generation=2), status(generation=2))
    result = cli("apply", "-f", str(file))
    assert result.code == 0
    assert result.err.splitlines() == ["tiny: removed from the file", "tiny: draining", "tiny: gone"]


def test_a_stalled_instance_ends_apply_with_its_reason_and_log(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("PUT /api/v1/config", accepted("tiny"))
    daemon.on("GET /api/v1/status", status(instance("tiny")), status(stalled("tiny"), generation=2))
    result = cli("apply", "-f", str(file))
    assert (result.code, result.out) == (1, "")
    assert "3 starts failed in a row" in result.err
    assert "  | CUDA out of memory" in result.err
    assert "llamactl logs tiny --previous" in result.err


def test_a_stalled_instance_without_a_tail_has_its_log_fetched(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("PUT /api/v1/config", accepted("tiny"))
    daemon.routes["GET /api/v1/instances/tiny/logs"] = lambda request: Reply(
        f"tail={request.query['tail']} previous={request.query['previous']}", type="text/plain"
    )
    daemon.on("GET /api/v1/status", status(instance("tiny")), status(stalled("tiny", tail=()), generation=2))
    assert "  | tail=20 previous=1" in cli("apply", "-f", str(file)).err


def test_apply_times_out_with_124_and_says_what_is_left(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("PUT /api/v1/config", accepted("tiny"))
    daemon.on("GET /api/v1/status", status(instance("tiny")), status(starting("tiny"), generation=2))
    result = cli("apply", "-f", str(file), "--timeout", "300ms")
    assert result.code == 124
    assert "tiny is ready at the old revision" in result.err


def test_no_wait_and_dry_run(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("PUT /api/v1/config", accepted("tiny"))
    daemon.on("POST /api/v1/plan", PLAN)
    daemon.on("GET /api/v1/status", status(starting("tiny"), generation=2))
    assert cli("apply", "-f", str(file), "--no-wait").code == 0
    assert len(daemon.asked("PUT /api/v1/config")) == 1
    assert "1 to replace" in cli("apply", "-f", str(file), "--dry-run").out
    assert len(daemon.asked("PUT /api/v1/config")) == 1


def test_nothing_changed_is_said_at_once(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("PUT /api/v1/config", accepted())
    daemon.on("GET /api/v1/status", status(stalled("bystander"), generation=2))
    result = cli("apply", "-f", str(file))
    assert (result.code, result.out) == (0, "nothing to change (generation 2)\n")


def test_an_apply_that_changes_no_instance_names_what_it_changed(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("GET /api/v1/status", status(stalled("bystander"), generation=1))
    daemon.on("PUT /api/v1/config", accepted() | {"settings": ["server", "auth"]})
    result = cli("apply", "-f", str(file))
    assert (result.code, result.out) == (0, "generation 2: changed server, auth\n")
    daemon.on("PUT /api/v1/config", accepted())
    assert cli("apply", "-f", str(file)).out == "generation 2 is in force\n"


def test_a_plan_shows_what_changes_outside_the_instances(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    field = {"path": "inference_keys.ci", "before": "(hidden)", "after": "(hidden)"}
    change = {"instance": None, "scope": "auth", "kind": "policy", "cause": "changed", "fields": [field]}
    daemon.on("POST /api/v1/plan", NOTHING | {"pending": True, "changes": [change]})
    result = cli("plan", "-f", str(file), "--detailed-exitcode")
    assert result.code == 2
    assert result.out.splitlines() == [
        ". auth  policy",
        "    inference_keys.ci: (hidden) -> (hidden)",
        "1 to policy",
    ]


def test_a_file_that_the_watch_already_took_is_waited_for(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    daemon.on("PUT /api/v1/config", accepted())
    taken = status(starting("tiny"), generation=2, hash=digest)
    daemon.on("GET /api/v1/status", taken, taken, status(arrived("tiny"), generation=2, hash=digest))
    result = cli("apply", "-f", str(file))
    assert result.code == 0
    assert result.err.splitlines()[-1] == "tiny: ready"


def test_a_file_that_the_daemon_cannot_write_is_1_with_its_words(cli: Cli, daemon: FakeDaemon, file: Path) -> None:
    daemon.on("GET /api/v1/status", status())
    daemon.on("PUT /api/v1/config", problem(409, "cannot write /etc/llamactl.yaml: read-only file system"))
    result = cli("apply", "-f", str(file))
    assert result.code == 1
    assert "read-only file system" in result.err


def test_ctrl_c_ends_the_waiting_and_says_that_the_work_goes_on(daemon: FakeDaemon, file: Path) -> None:
    daemon.on("PUT /api/v1/config", accepted("tiny"))
    daemon.on("GET /api/v1/status", status(instance("tiny")), status(starting("tiny"), generation=2))
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "apply", "-f", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while len(daemon.asked("GET /api/v1/status")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert b"the daemon carries on" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("goal", "last"),
    [
        ("ready", arrived("tiny")),
        ("stopped", instance("tiny", state="disabled", phase="stopped", ready=False, replicas=[])),
        ("deleted", instance("other")),
    ],
)
def test_wait_ends_when_it_is_so(cli: Cli, daemon: FakeDaemon, goal: str, last: dict[str, object]) -> None:
    daemon.on("GET /api/v1/status", status(starting("tiny")), status(starting("tiny")), status(last))
    result = cli("wait", "tiny", "--for", goal)
    assert (result.code, result.out) == (0, "")
    assert len(daemon.requests) == 3


def test_wait_for_what_does_not_exist_or_is_stalled_is_1(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(stalled("tiny")))
    missing = cli("wait", "nope", "--for", "ready")
    assert missing.code == 1
    assert "cannot wait for nope: there is no such instance" in missing.err
    assert "stalled" not in missing.err
    assert cli("wait", "nope", "--for", "deleted").code == 0
    given_up = cli("wait", "tiny", "--for", "ready")
    assert given_up.code == 1
    assert "CUDA out of memory" in given_up.err


def test_wait_does_not_go_by_a_status_from_before_the_save(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = status(arrived("tiny"), pending=True)
    held = status(arrived("tiny"), held={"until": "", "removes": ["other"], "reason": ""})
    daemon.on("GET /api/v1/status", unread, unread, held, status(arrived("tiny"), arrived("new")))
    assert cli("wait", "new", "--for", "ready").code == 0
    daemon.on("GET /api/v1/status", unread, unread, status(stalled("tiny")))
    assert "CUDA out of memory" in cli("wait", "tiny", "--for", "ready").err
    daemon.on("GET /api/v1/status", unread, unread, status(arrived("tiny"), valid=False))
    refused = cli("wait", "new", "--for", "ready")
    assert refused.code == 1
    assert "the file is refused" in refused.err
    monkeypatch.setattr(waiting, "TAKEN_UP_S", 0.3)
    daemon.on("GET /api/v1/status", unread)
    assert "no such instance" in cli("wait", "new", "--for", "ready").err


def test_wait_outlives_a_restart_of_the_daemon_but_not_its_absence(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.cli.fake import Reply

    broken = Reply(b"{", headers={"Content-Length": "100"})
    daemon.on("GET /api/v1/status", status(starting("tiny")), broken, status(arrived("tiny")))
    result = cli("wait", "tiny", "--for", "ready")
    assert result.code == 0
    assert "waiting for it to come back" in result.err
    monkeypatch.setattr(waiting, "RECONNECT_S", 0.2)
    daemon.on("GET /api/v1/status", status(starting("tiny")), broken)
    assert cli("wait", "tiny", "--for", "ready").code == 69


def test_wait_after_a_restart_is_for_the_new_process(cli: Cli, daemon: FakeDaemon) -> None:
    old, new = replica("tiny#1"), replica("tiny#2", pid=200)
    asked = instance("tiny", generation=2, observed_generation=1, replicas=[old])
    both = asked | {"replicas": [old, new | {"phase": "starting"}]}
    taken_over = asked | {"replicas": [old | {"phase": "draining"}, new]}
    daemon.on("GET /api/v1/status", *(status(each) for each in (asked, asked, both, taken_over)))
    assert cli("wait", "tiny", "--for", "ready").code == 0
    assert len(daemon.requests) == 4
