"""The command line of the tests: away from the user's own daemon, variables and files."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.cli import main
from tests.cli.fake import FakeDaemon


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to be in, an empty state folder, none of the variables that change what a command does."""
    for name in list(os.environ):
        if name.startswith("LLAMACTL_") or name in ("CI", "NO_COLOR", "STATE_DIRECTORY"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    (home / "work").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LLAMACTL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(home / "work")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restored after: a run installs its own
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))  # the same: `up` logs to the stderr of its moment
    monkeypatch.setattr(root, "level", root.level)
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for each, handler in handlers.items():
        signal.signal(each, handler)  # a command that starts programs takes them


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process."""

    def run(*argv: str) -> Result:
        capfd.readouterr()
        code = main(argv)
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """A fake daemon that LLAMACTL_SERVER names."""
    with FakeDaemon() as fake:
        monkeypatch.setenv("LLAMACTL_SERVER", fake.url)
        yield fake
