"""A test that leaves a process behind fails. Every process started during a module's tests carries the module's mark in its
environment; whatever still lives with it when the module is done is named, ended, and counted as a failure.

What clears its environment, or renames itself over it, is not seen here: the witness in `tests/daemons.py` looks for those.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

MARK = "TEST_MODULE_MARK"
ENDING_S = 5.0
"""How long what a test has already told to end may take to be gone, seconds."""


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that carry a mark, this one excepted."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def left_behind(mark: str, *, patience_s: float = ENDING_S) -> list[str]:
    """Pid and command of what is still there after a moment's patience; it is ended."""
    limit = time.monotonic() + patience_s
    while (left := marked(mark)) and time.monotonic() < limit:
        time.sleep(0.05)
    lines = []
    for process in left:
        with suppress(psutil.Error):
            lines.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            process.kill()
    return lines


@pytest.fixture(scope="module", autouse=True)
def no_process_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the module whose tests left a process behind. Set up before, and so torn down after, every other fixture."""
    mark = uuid.uuid4().hex
    before = os.environ.get(MARK)
    os.environ[MARK] = mark
    try:
        yield
    finally:
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before
    left = left_behind(mark)
    assert not left, f"{request.node.name} left processes behind:\n" + "\n".join(left)
