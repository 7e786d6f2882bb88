"""Whatever happens to the daemon, a model that serves keeps serving; when everything is told to end, nothing is left."""

from __future__ import annotations

import json
import os
import signal

from tests.daemons import Daemon
from tests.e2e.fleets import instance, pids, ready, simulated, status, write


def test_a_killed_daemon_leaves_its_backends_to_the_next_one(daemon: Daemon) -> None:
    write(daemon, simulated("one"), simulated("two"))
    daemon.up()
    ready(daemon, "one", "two")
    before = pids(daemon)
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait(10)
    assert all(os.path.exists(f"/proc/{pid}") for found in before.values() for pid in found)
    daemon.up()
    ready(daemon, "one", "two")
    assert pids(daemon) == before
    one = instance(daemon, "one")
    assert one["replicas"][0]["adopted"] is True
    assert one["restarts"] == 0
    assert status(daemon)["generation"] == 1
    assert daemon.chat("one", max_tokens=3).ended
    daemon.down()
    assert daemon.left_over() == []


def test_sigterm_hands_over_and_an_edit_meanwhile_is_applied_by_the_next_daemon(daemon: Daemon) -> None:
    write(daemon, simulated("one"), simulated("two"))
    daemon.up()
    ready(daemon, "one", "two")
    before = pids(daemon)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(15) == 0
    write(daemon, simulated("one"), simulated("three"))
    daemon.up()
    ready(daemon, "one", "three")
    daemon.until(lambda: "two" not in pids(daemon), what="two to be gone", deadline_s=20)
    assert pids(daemon)["one"] == before["one"]
    assert not os.path.exists(f"/proc/{before['two'][0]}")


def test_a_backend_that_died_meanwhile_is_known_with_its_exit(daemon: Daemon) -> None:
    write(daemon, simulated("one", "restart: {initial_delay: 50ms}"))
    daemon.up()
    ready(daemon, "one")
    first = pids(daemon)["one"][0]
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait(10)
    os.kill(first, signal.SIGABRT)
    daemon.up()
    ready(daemon, "one")
    assert instance(daemon, "one")["last_exit"]["signal"] == "SIGABRT"
    assert instance(daemon, "one")["restarts"] == 1


def test_ctrl_c_ends_everything(daemon: Daemon) -> None:
    write(daemon, simulated("one", children=3), simulated("two"))
    daemon.up()
    ready(daemon, "one", "two")
    daemon.look()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(30) == 0
    assert daemon.left_over() == []


def test_a_second_daemon_is_refused_and_the_first_undisturbed(daemon: Daemon) -> None:
    write(daemon, simulated("one"))
    daemon.up()
    ready(daemon, "one")
    before = pids(daemon)
    second = daemon.run("up", "-f", str(daemon.file), "--port", str(daemon.port + 1))
    assert second.code != 0
    assert str(daemon.process.pid if daemon.process else "") in second.text
    assert pids(daemon) == before


def test_down_without_a_daemon_ends_what_is_left(daemon: Daemon) -> None:
    write(daemon, simulated("one"))
    daemon.up()
    ready(daemon, "one")
    daemon.look()
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait(10)
    assert daemon.run("down").code == 0
    assert daemon.left_over() == []


def test_a_daemon_starts_with_the_last_good_file_when_the_file_is_broken(daemon: Daemon) -> None:
    write(daemon, simulated("one"))
    daemon.up()
    ready(daemon, "one")
    before = pids(daemon)
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait(10)
    daemon.file.write_text("instances: [", encoding="utf-8")
    daemon.up()
    assert pids(daemon) == before
    config = status(daemon)["config"]
    assert config["valid"] is False
    assert json.dumps(config["problems"])


def test_a_short_file_found_at_a_start_is_held_as_it_would_be_later(daemon: Daemon) -> None:
    write(daemon, *(simulated(name) for name in ("one", "two", "three")))
    daemon.up()
    ready(daemon, "one", "two", "three")
    before = pids(daemon)
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait(10)
    whole = daemon.file.read_text(encoding="utf-8")
    write(daemon, simulated("one"))
    daemon.up()
    held = status(daemon)["config"]["held"]
    assert held["removes"] == ["three", "two"]
    assert pids(daemon) == before
    daemon.file.write_text(whole, encoding="utf-8")
    daemon.until(lambda: status(daemon)["config"]["held"] is None, what="the hold to be over", deadline_s=20)
    assert pids(daemon) == before


def test_a_file_that_is_missing_at_a_start_stops_nothing(daemon: Daemon) -> None:
    write(daemon, simulated("one"))
    daemon.up()
    ready(daemon, "one")
    before = pids(daemon)
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait(10)
    text = daemon.file.read_text(encoding="utf-8")
    daemon.file.unlink()
    daemon.up()
    assert pids(daemon) == before
    assert status(daemon)["config"]["valid"] is False
    daemon.file.write_text(text, encoding="utf-8")
    daemon.until(lambda: bool(status(daemon)["config"]["valid"]), what="the file to be in force again", deadline_s=20)
    assert pids(daemon) == before
