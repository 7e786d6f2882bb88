"""A check of the checker: the witness of left-over processes sees those that hide, and only those of its own test."""

from __future__ import annotations

import os
import sys

import psutil

from tests.daemons import MARK, Daemon


def test_the_witness_sees_a_process_that_hides_its_environment(daemon: Daemon) -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'], env={})"
    parent = psutil.Popen([sys.executable, "-c", script], env={**os.environ, MARK: daemon.mark})
    try:
        daemon.until(lambda: len(parent.children()) == 1, what="the child", deadline_s=20.0)
        child = parent.children()[0]
        daemon.look()
        parent.kill()
        parent.wait(10)
        assert [line.split()[0] for line in daemon.left_over()] == [str(child.pid)]
    finally:
        daemon.clean_up()
        parent.wait(10)
    assert daemon.left_over() == []


def test_the_witness_sees_a_late_member_of_a_known_session(daemon: Daemon) -> None:
    script = (
        "import subprocess, sys; sys.stdin.read();"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={}, stdout=subprocess.DEVNULL).pid)"
    )
    leader = psutil.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, MARK: daemon.mark},
        stdin=-1,
        stdout=-1,
        text=True,
        start_new_session=True,
    )
    try:
        daemon.look()
        late, _ = leader.communicate("", timeout=20)
        assert [line.split()[0] for line in daemon.left_over()] == [late.strip()]
    finally:
        daemon.clean_up()
    assert daemon.left_over() == []


def test_the_witness_leaves_other_processes_alone(daemon: Daemon) -> None:
    stranger = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        daemon.look()
        assert daemon.left_over() == []
        daemon.clean_up()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(10)
