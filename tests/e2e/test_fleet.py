"""The main job: a file is saved, and exactly what changed in it happens."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

from tests.daemons import Daemon
from tests.e2e.fleets import instance, pids, ready, simulated, status, write

THREE = ("one", "two", "three")


def up_with_three(daemon: Daemon) -> dict[str, list[int]]:
    write(daemon, *(simulated(name) for name in THREE))
    daemon.up()
    ready(daemon, *THREE)
    return pids(daemon)


def test_editing_one_keeps_the_others(daemon: Daemon) -> None:
    before = up_with_three(daemon)
    write(daemon, simulated("one"), simulated("two", token_delay_ms=1), simulated("three"))
    daemon.until(lambda: pids(daemon)["two"] != before["two"], what="two to be replaced", deadline_s=20)
    ready(daemon, *THREE)
    after = pids(daemon)
    assert (after["one"], after["three"]) == (before["one"], before["three"])
    assert len(after["two"]) == 1
    daemon.down()
    assert daemon.left_over() == []


def test_an_edit_never_leaves_a_moment_without_a_server(daemon: Daemon) -> None:
    write(daemon, simulated("one", load_seconds=0.5))
    daemon.up()
    ready(daemon, "one")
    before = pids(daemon)["one"]
    write(daemon, simulated("one", load_seconds=0.6))
    answers = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (pids(daemon)["one"] == before or len(pids(daemon)["one"]) != 1):
        code, _ = daemon.request(
            "POST", "/v1/chat/completions", {"model": "one", "messages": [{"role": "user", "content": "hi"}]}
        )
        answers.append(code)
    assert set(answers) == {200}
    assert len(answers) > 3
    assert len(pids(daemon)["one"]) == 1
    assert pids(daemon)["one"] != before


def test_adding_one_spawns_it_and_removing_one_leaves_no_process(daemon: Daemon) -> None:
    before = up_with_three(daemon)
    write(daemon, *(simulated(name) for name in (*THREE, "four")))
    daemon.until(lambda: bool(pids(daemon).get("four")), what="four to be spawned", deadline_s=20)
    ready(daemon, "four")
    gone = before["two"][0]
    write(daemon, *(simulated(name) for name in ("one", "three", "four")))
    daemon.until(lambda: "two" not in pids(daemon), what="two to be gone", deadline_s=20)
    assert not os.path.exists(f"/proc/{gone}")
    now = pids(daemon)
    assert (now["one"], now["three"]) == (before["one"], before["three"])


def test_a_broken_save_changes_no_process_and_says_where(daemon: Daemon) -> None:
    before = up_with_three(daemon)
    good = daemon.file.read_text(encoding="utf-8")
    daemon.file.write_text(
        good.replace("    backend_type: simulator", "    backend_typ: simulator", 1), encoding="utf-8"
    )
    daemon.until(lambda: not status(daemon)["config"]["valid"], what="the broken file to be seen", deadline_s=20)
    problems = status(daemon)["config"]["problems"]
    placed = [f"{p['message']} {p['hint']}" for p in problems if (p["line"], p["column"]) == (5, 5)]
    assert "backend_typ" in placed[0]
    assert "backend_type" in placed[0]
    assert pids(daemon) == before
    assert daemon.get("/livez")[0] == 200
    daemon.file.write_text(good, encoding="utf-8")
    daemon.until(lambda: bool(status(daemon)["config"]["valid"]), what="the fixed file to be in force", deadline_s=20)
    assert pids(daemon) == before


def test_comments_order_and_formatting_change_nothing(daemon: Daemon) -> None:
    before = up_with_three(daemon)
    generation = status(daemon)["generation"]
    write(daemon, "  # moved\n" + simulated("three"), simulated("one"), simulated("two"))
    digest = status(daemon)["config"]["hash"]
    daemon.until(lambda: bool(status(daemon)["config"]["hash"] != digest), what="the save to be seen", deadline_s=20)
    assert pids(daemon) == before
    assert status(daemon)["generation"] == generation


def test_a_crashed_backend_comes_back_and_status_says_why(daemon: Daemon) -> None:
    write(daemon, simulated("one", "restart: {initial_delay: 100ms}"))
    daemon.up()
    ready(daemon, "one")
    first = pids(daemon)["one"][0]
    os.kill(first, 9)
    daemon.until(lambda: pids(daemon)["one"] not in ([], [first]), what="one to come back", deadline_s=20)
    ready(daemon, "one")
    now = instance(daemon, "one")
    assert now["restarts"] == 1
    assert now["last_exit"]["signal"] == "SIGKILL"
    assert now["last_exit"]["log_tail"]


def test_a_start_that_fails_is_shown_with_its_own_words_and_the_others_go_on(daemon: Daemon) -> None:
    write(
        daemon, simulated("good"), simulated("bad", "restart: {initial_delay: 50ms, max_delay: 100ms}", fail_start=True)
    )
    daemon.up()
    ready(daemon, "good")
    daemon.until(lambda: instance(daemon, "bad")["restarts"] >= 3, what="bad to fail thrice", deadline_s=30)
    stalled = [c for c in instance(daemon, "bad")["conditions"] if c["type"] == "Stalled"]
    assert stalled[0]["status"] is True
    assert instance(daemon, "bad")["last_exit"]["code"] == 1
    assert daemon.get("/readyz")[0] == 503
    assert "bad" in daemon.get("/readyz")[1]


def test_replicas_share_the_work(daemon: Daemon) -> None:
    write(daemon, simulated("one", "replicas: 3", ttft_ms=300))
    daemon.up()
    ready(daemon, "one")
    assert len(set(pids(daemon)["one"])) == 3
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda _: daemon.chat("one", max_tokens=2), range(3)))
    assert [reply.status for reply in replies] == [200, 200, 200]
    # three at once over three replicas: least outstanding requests gives each one
    ports = [replica["port"] for replica in instance(daemon, "one")["replicas"]]
    served = []
    for port in ports:
        with urlopen(f"http://127.0.0.1:{port}/_sim/stats") as answer:
            served.append(json.load(answer)["requests"])
    assert served == [1, 1, 1]


def test_on_demand_starts_with_the_first_request_and_stops_when_idle(daemon: Daemon) -> None:
    write(daemon, simulated("one", "state: on_demand", "idle_timeout: 1s", load_seconds=0.3))
    daemon.up()
    assert pids(daemon)["one"] == []
    assert daemon.get("/readyz")[0] == 200
    reply = daemon.chat("one", max_tokens=3)
    assert (reply.status, reply.ended) == (200, True)
    assert len(pids(daemon)["one"]) == 1
    daemon.until(lambda: pids(daemon)["one"] == [], what="one to stop when idle", deadline_s=20)
    assert instance(daemon, "one")["phase"] == "stopped"
