"""Variables that are files: read when asked, never waited for, absent when they cannot be read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from reconciler.host.keyfiles import LONGEST_KEY, EnvironWithFiles


def test_a_file_is_read_afresh_each_time_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "key"
    environ = EnvironWithFiles({"A": "1"})
    path.write_bytes(b" first \r\nsecond\n")
    assert environ[f"file:{path}"] == "first"
    path.write_text("other")
    assert environ.get(f"file:{path}") == "other"
    assert environ["A"] == "1"
    assert (list(environ), len(environ)) == (["A"], 1)


@pytest.mark.parametrize("kind", ["missing", "folder", "no text"])
def test_what_cannot_be_read_is_absent_and_told(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "key"
    if kind == "folder":
        path.mkdir()
    elif kind == "no text":
        path.write_bytes(b"\xff\xfe")
    with caplog.at_level(logging.WARNING):
        assert EnvironWithFiles({}).get(f"file:{path}") is None
    assert str(path) in caplog.text


@pytest.mark.timeout(10)
def test_a_pipe_or_an_endless_file_does_not_hold_the_daemon_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert EnvironWithFiles({}).get(f"file:{tmp_path / 'pipe'}") == ""
    assert len(EnvironWithFiles({})["file:/dev/zero"]) <= LONGEST_KEY
