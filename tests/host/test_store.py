"""The state folder: whole old or whole new, one daemon, garbage put aside, and a daemon that can be found."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.errors import Conflict
from reconciler.host import store
from reconciler.host.clock import SystemClock, rfc3339
from reconciler.host.store import StateFolder, read_announcement, read_json, state_dir, write_atomic, write_json

CALLS = ("open", "write", "fchmod", "fsync", "replace")
"""The system calls of a write that can fail before it is complete."""


def test_the_state_folder_is_chosen_in_order(tmp_path: Path) -> None:
    environ = {"LLAMACTL_STATE_DIR": "/a", "STATE_DIRECTORY": "/b:/c"}
    assert state_dir(tmp_path, environ) == tmp_path
    assert state_dir(None, environ) == Path("/a")
    assert state_dir(None, {"STATE_DIRECTORY": "/b:/c"}) == Path("/b")
    assert state_dir(None, {}).name == "llamactl"
    assert state_dir(None, {"LLAMACTL_STATE_DIR": "", "STATE_DIRECTORY": ""}) == state_dir(None, {})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """Row 26, errors."""
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=os.strerror(code)):
            write_atomic(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", [*CALLS, "close"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_write_leaves_old_or_new(tmp_path: Path, call: str, when: str) -> None:
    """Row 26, SIGKILL around each call."""
    path = tmp_path / "file"
    write_atomic(path, b"old")
    program = f"""
import os, signal
from pathlib import Path
from reconciler.host import store
real = os.{call}
def dying(*arguments, **named):
    if {when == "after"}:
        real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
os.{call} = dying
store.write_atomic(Path({str(path)!r}), b"new and longer")
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() in (b"old", b"new and longer")


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
        write_atomic(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_users_file_keeps_mode_and_owner_and_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "real.yaml"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o664)
    owner = (1234, 4321) if os.getuid() == 0 else (os.getuid(), os.getgid())
    os.chown(target, *owner)
    link = tmp_path / "llamactl.yaml"
    link.symlink_to(Path("elsewhere") / "real.yaml")
    write_atomic(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    found = target.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o664, *owner)


def test_a_new_file_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "secret", b"x")
        write_atomic(tmp_path / "shared", b"x", 0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o644


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        write_atomic(tmp_path / "fifo", b"x")
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "no" / "folder", b"x")


@pytest.mark.parametrize("garbage", [b"", b'{"a": 1', b"\xff\xfe", b"[1]", b"[" * 100_000, bytes(range(255, 150, -1))])
def test_garbage_is_put_aside_and_counts_as_absent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    """Row 27."""
    path = tmp_path / "state.json"
    path.write_bytes(garbage)
    with caplog.at_level(logging.WARNING):
        assert read_json(path) is None
    assert not path.exists()
    assert (tmp_path / "state.json.bad").read_bytes() == garbage
    assert str(path) in caplog.text
    assert read_json(path) is None
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}


async def test_a_second_daemon_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    """Row 20."""
    clock = SystemClock()
    first = await StateFolder.take(tmp_path / "state", clock=clock)
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
    first.announce(url="http://127.0.0.1:8080/", key="local")
    with pytest.raises(Conflict, match=rf"pid {os.getpid()}, http://127.0.0.1:8080\)"):
        await StateFolder.take(tmp_path / "state", clock=clock)
    found = read_announcement(tmp_path / "state")
    assert found is not None
    assert (found.pid, found.url, found.key) == (os.getpid(), "http://127.0.0.1:8080", "local")
    assert "local" not in repr(found)
    assert stat.S_IMODE((first.path / "daemon.json").stat().st_mode) == 0o600
    first.close()
    first.close()
    assert read_announcement(tmp_path / "state") is None
    second = await StateFolder.take(tmp_path / "state", clock=clock)
    second.close()


async def test_a_dead_daemons_announcement_is_not_believed(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, signal
from pathlib import Path
from reconciler.host.clock import SystemClock
from reconciler.host.store import StateFolder
async def main():
    folder = await StateFolder.take(Path({str(tmp_path)!r}), clock=SystemClock())
    folder.announce(url="http://127.0.0.1:1", key="k")
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)  # noqa: ASYNC221 - a test may wait
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "daemon.json").exists()
    assert read_announcement(tmp_path) is None
    taken = await StateFolder.take(tmp_path, clock=SystemClock())
    assert not (tmp_path / "daemon.json").exists(), "the next daemon is not mistaken for the last"
    assert read_announcement(tmp_path) is None
    taken.close()


async def test_a_command_line_that_looks_does_not_keep_a_daemon_out(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / store.LOCK_NAME, os.O_RDWR | os.O_CREAT)
    assert store._try_lock(descriptor, fcntl.LOCK_SH)

    class Letting(SystemClock):
        async def sleep(self, seconds: float) -> None:
            nonlocal descriptor
            if descriptor >= 0:
                os.close(descriptor)
                descriptor = -1
            await super().sleep(seconds)

    taken = await StateFolder.take(tmp_path, clock=Letting())
    taken.close()


def test_an_announcement_may_be_garbage(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", json.dumps({"pid": "x", "url": 1, "key": None})):
        (tmp_path / "daemon.json").write_text(text)
        assert read_announcement(tmp_path) is None


async def test_the_system_clock_moves_and_sleeps() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0.01)
    await clock.sleep(-1)
    assert clock.monotonic() - before >= 0.01
    assert clock.now() > 1_700_000_000


def test_times_are_rfc3339_in_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_750_000_000.25) == "2025-06-15T15:06:40.250Z"
