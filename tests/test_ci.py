"""The checks of `.ci/run` and of the leak fixture are able to fail: a wrong skip, a missing report, a process left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.leaks import MARK, left_behind, marked

ROOT = Path(__file__).resolve().parents[1]
CHECK = ROOT / ".ci" / "check.py"
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def check(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output of one check."""
    done = subprocess.run(
        [sys.executable, CHECK, *arguments],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def report(path: Path, *reasons: str) -> Path:
    """A JUnit report with one passed test, and one skipped for each reason."""
    cases = "".join(
        f'<testcase classname="t" name="n{n}"><skipped message="{why}"/></testcase>' for n, why in enumerate(reasons)
    )
    path.write_text(f'<testsuites><testsuite><testcase classname="t" name="ok"/>{cases}</testsuite></testsuites>')
    return path


def test_the_tests_are_run_by_the_readmes_own_words() -> None:
    code, out = check("readme-command")
    assert (code, out.strip()) == (0, "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest")


def test_skips_for_kernel_features_are_counted_and_allowed(tmp_path: Path) -> None:
    code, out = check("skips", report(tmp_path / "a.xml", "needs a real systemd", "no writable cgroup here"))
    assert code == 0, out
    assert "2 skipped" in out
    assert "1 x no writable cgroup here" in out


def test_any_other_skip_is_a_failure(tmp_path: Path) -> None:
    code, out = check("skips", report(tmp_path / "a.xml", "vllm is not installed"))
    assert code == 1
    assert "vllm is not installed   <-- not a kernel feature" in out
    assert "t::n0" in out


def test_a_report_that_was_not_written_is_a_failure(tmp_path: Path) -> None:
    code, out = check("skips", report(tmp_path / "a.xml"), tmp_path / "b.xml")
    assert code == 1
    assert "b.xml was not written" in out


@pytest.mark.skipif(sys.platform != "linux", reason="needs the /proc of linux namespaces")
def test_a_process_left_behind_is_found_and_ended() -> None:
    mark = {"CI_RUN_MARK": uuid.uuid4().hex}
    assert check("left", "0.5", environment=mark)[0] == 0
    sleeper = subprocess.Popen(SLEEPER, env={**os.environ, **mark})
    try:
        code, out = check("left", "0.5", environment=mark)
        assert code == 1
        assert f"left behind: {sleeper.pid}" in out
        assert sleeper.wait(10) == -9
    finally:
        sleeper.kill()
        sleeper.wait(10)


def test_the_leak_fixture_sees_what_a_test_left() -> None:
    mark = uuid.uuid4().hex
    sleeper = subprocess.Popen(SLEEPER, env={**os.environ, MARK: mark})
    try:
        assert [process.pid for process in marked(mark)] == [sleeper.pid]
        assert [line.split()[0] for line in left_behind(mark, patience_s=0.1)] == [str(sleeper.pid)]
        sleeper.wait(10)
        assert left_behind(mark, patience_s=0.1) == []
    finally:
        sleeper.kill()
        sleeper.wait(10)
