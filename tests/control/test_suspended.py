"""A process that was suspended in the middle of somebody's slow save has seen nothing meanwhile, and believes nothing of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

WHOLE = "".join(f"line {number}\n" for number in range(100))
LATER = WHOLE.replace("line", "other")
WATCHER = """
import asyncio, sys
from pathlib import Path
from reconciler.config.source import Source
from reconciler.control.watch import FileWatch, Pace
from reconciler.host.clock import SystemClock

async def main():
    pace = Pace(settle=0.02, doubt=0.4, patience=1.0, look_every=0.3)
    async for seen in FileWatch(Path(sys.argv[1]), SystemClock(), pace).changes():
        size = len(seen.content.files[0].data) if isinstance(seen.content, Source) else -1
        print(size, flush=True)

asyncio.run(main())
"""


@contextlib.contextmanager
def watcher(file: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out, subprocess.Popen([sys.executable, "-c", WATCHER, str(file)], stdout=out) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def sizes(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()]


def until(log: Path, size: int) -> None:
    end = time.monotonic() + 20
    while sizes(log)[-1:] != [size]:
        assert time.monotonic() < end, f"never saw {size}: {sizes(log)}"
        time.sleep(0.01)


@pytest.mark.parametrize("away", [0.5, 1.3], ids=["for less than its patience", "for more than its patience"])
def test_a_suspended_process_does_not_believe_a_torn_text(tmp_path: Path, away: float) -> None:
    file, log = tmp_path / "file.yaml", tmp_path / "log"
    file.write_text(WHOLE)
    with watcher(file, log) as process:
        until(log, len(WHOLE))
        with file.open("wb", buffering=0) as writing:
            writing.write(LATER[:300].encode())
            time.sleep(0.06)  # the watcher has noticed and waits
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(away)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.15)  # a writer that was suspended with it takes a moment to go on
            writing.write(LATER[300:].encode())
        until(log, len(LATER))
        assert sizes(log) == [len(WHOLE), len(LATER)]
