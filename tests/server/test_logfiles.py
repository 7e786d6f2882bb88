"""A follower of logs keeps no file open that nobody lists any more, and loses nothing of it."""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.core.contracts import LogFile
from reconciler.server.logfiles import Follower


def log(folder: Path, serial: int, text: str) -> LogFile:
    path = folder / f"log-{serial}"
    path.write_text(text, encoding="utf-8")
    return LogFile(serial=serial, paths=(path,), live=True, started_at=float(serial))


def open_files(folder: Path) -> int:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(1 for link in links if os.path.islink(link) and os.readlink(link).startswith(str(folder)))


def test_a_replica_that_left_the_list_is_read_to_its_end_and_let_go(tmp_path: Path) -> None:
    follower = Follower()
    first = log(tmp_path, 1, "one\n")
    follower.begin([first], None)
    assert b"".join(block for _, block in follower.look([first])) == b"one\n"
    with first.paths[0].open("a", encoding="utf-8") as stream:
        stream.write("last words\n")
    first.paths[0].unlink()
    second = log(tmp_path, 2, "two\n")
    assert follower.look([second]) == [(first, b"last words\n"), (second, b"two\n")]
    assert open_files(tmp_path) == 1
    follower.close()
    assert open_files(tmp_path) == 0


def test_many_replacements_keep_one_file_open(tmp_path: Path) -> None:
    follower = Follower()
    for serial in range(1, 50):
        follower.look([log(tmp_path, serial, f"{serial}\n")])
        assert open_files(tmp_path) == 1
    follower.close()
