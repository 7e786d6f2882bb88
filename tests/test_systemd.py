"""The unit, its user and its folders: accepted by systemd's own checkers, and saying what keeps models alive."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "systemd"
UNIT = FOLDER / "llamactl.service"
WORST_EXPOSURE = 3.0
"""What `systemd-analyze security` may give at most; 10 is a unit without any sandbox. Measured: 2.4 with systemd 252."""


def settings() -> dict[str, list[str]]:
    """The unit's directives, by name, in order."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Z]\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def needs(program: str) -> str:
    """The path of one of systemd's programs, or a skip."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs systemd's {program}")
    return path


def runnable(folder: Path) -> Path:
    """The unit as on a host where llamactl is installed: the checker looks whether the program is there."""
    unit = folder / UNIT.name
    here = str(Path(sys.executable).with_name("llamactl"))
    unit.write_text(UNIT.read_text().replace("/opt/llamactl/bin/llamactl", here))
    return unit


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    done = subprocess.run(
        [needs("systemd-analyze"), "verify", "--man=no", runnable(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_us = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, about_us) == (0, [])


def test_a_fault_in_the_unit_would_be_found(tmp_path: Path) -> None:
    unit = runnable(tmp_path)
    unit.write_text(unit.read_text().replace("KillMode=process", "KillMode=proces"))
    done = subprocess.run(
        [needs("systemd-analyze"), "verify", "--man=no", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert "kill mode" in done.stderr


def test_the_sandbox_is_tight(tmp_path: Path) -> None:
    limit = str(int(WORST_EXPOSURE * 10))
    done = subprocess.run(
        [
            needs("systemd-analyze"),
            "security",
            "--no-pager",
            "--offline=true",
            f"--threshold={limit}",
            runnable(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr


def test_the_user_and_the_folders_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(
        [needs("systemd-sysusers"), f"--root={tmp_path}", FOLDER / "llamactl.sysusers"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert re.search(r"^llamactl:.*:/var/lib/llamactl:", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    subprocess.run(
        [needs("systemd-tmpfiles"), "--create", f"--root={tmp_path}", FOLDER / "llamactl.tmpfiles"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (tmp_path / "etc/llamactl").is_dir()


def test_a_restart_leaves_the_models_alone() -> None:
    said = settings()
    assert said["KillMode"] == ["process"]
    assert said["RuntimeDirectoryPreserve"] == ["yes"]
    assert said["OOMPolicy"] == ["continue"]
    assert said["PrivateTmp"] == ["no"]
    assert "DynamicUser" not in said


def test_the_daemon_is_started_again_for_ever() -> None:
    said = settings()
    assert said["Restart"] == ["always"]
    assert said["StartLimitIntervalSec"] == ["0"]
    assert said["Type"] == ["notify"]


@pytest.mark.parametrize(
    ("job", "ended"),
    [("12 llamactl.service stop running", True), ("12 llamactl.service restart running", False),
     ("12 llamactl.service start waiting", False), ("", False)],
)  # fmt: skip
def test_the_models_are_ended_only_by_a_stop(job: str, ended: bool, tmp_path: Path) -> None:
    """The unit's own line, run by a shell with a `systemctl` that shows one job, and a `llamactl` that notes how it is called."""
    line = settings()["ExecStopPost"][0].replace("%n", UNIT.name)
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\necho '{job}'\n")
    (tmp_path / "llamactl").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    for program in ("systemctl", "llamactl"):
        (tmp_path / program).chmod(0o755)
    line = line.replace("/opt/llamactl/bin/llamactl", str(tmp_path / "llamactl"))
    found = re.fullmatch(r"/bin/sh -c '(.*)'", line)
    assert found, line
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["/bin/sh", "-c", found[1]], env={"PATH": path}, timeout=30, check=False)
    assert done.returncode == 0
    called = tmp_path / "called"
    assert (called.read_text().split()[0] if called.exists() else None) == ("down" if ended else None)
