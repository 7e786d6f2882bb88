"""From a save of the file to the birth of the new backend process, through the real daemon with ten simulators.

Measured from outside: the moment before the file is renamed into place, the daemon's own log line of the start (all of watching,
settling, loading and planning lies before it), and the moment at which the supervisor started the process. Prints one JSON object;
`pytest tests/bench -m bench -n 0` runs it.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.daemons import Daemon
from tests.e2e.fleets import ready, simulated, status, write

INSTANCES = 10
SAVES = 20
REST_S = 0.7
"""Pause before each save, seconds: longer than any chain of causes of the one before, so that the daemon is idle."""


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: the least, the middle, the 95th of 100, the most."""
    ordered = sorted(1000 * one for one in seconds)
    at = min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))
    return {
        "min": round(ordered[0], 1),
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[at], 1),
        "max": round(ordered[-1], 1),
    }


def unix(text: str) -> float:
    """Unix seconds of an RFC 3339 time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def logged_start(log: str, replica: str) -> float:
    """When the daemon said that it starts a replica."""
    found = re.search(rf"^(\S+) info\s+start\s+{re.escape(replica)} ", log, re.MULTILINE)
    assert found, f"no start of {replica} in the log"
    return unix(found[1])


def replica_of(daemon: Daemon, name: str, revision_not: str) -> dict[str, Any] | None:
    """The instance's replica at another revision than this one."""
    one = next(found for found in status(daemon)["instances"] if found["name"] == name)
    fresh: list[dict[str, Any]] = [each for each in one["replicas"] if each["revision"] != revision_not]
    return fresh[0] if fresh else None


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_save_to_spawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(tmp_path)
    names = [f"model{number}" for number in range(INSTANCES)]
    limits = dict.fromkeys(names, 100)

    def text() -> list[str]:
        return [simulated(name, token_delay_ms=5, load_seconds=0.0, ttft_ms=limits[name]) for name in names]

    write(daemon, *text())
    daemon.up()
    try:
        ready(daemon, *names)
        to_start, to_spawn, to_ready = [], [], []
        for turn in range(SAVES):
            name = names[(3 * turn) % INSTANCES]
            old = next(one for one in status(daemon)["instances"] if one["name"] == name)["revision"]
            limits[name] += 1
            new = Daemon(tmp_path / "new", port=daemon.port)
            new.folder.mkdir(exist_ok=True)
            write(new, *text())
            time.sleep(REST_S)
            saved = time.time()
            new.file.replace(daemon.file)
            spawned = functools.partial(replica_of, daemon, name, old)
            daemon.until(lambda: spawned() is not None, what="a spawn", deadline_s=10.0)  # noqa: B023 # called at once
            fresh = replica_of(daemon, name, old)
            assert fresh is not None
            to_start.append(logged_start(daemon.output.read_text(), fresh["name"]) - saved)
            to_spawn.append(unix(fresh["started_at"]) - saved)
            ready(daemon, name)
            to_ready.append(time.time() - saved)
        idle = idle_cpu(daemon)
        daemon.down()
    finally:
        daemon.clean_up()
    report = {
        "what": "save to spawn",
        "instances": INSTANCES,
        "saves": SAVES,
        "unit": "ms",
        "save_to_start_order": summary(to_start),
        "start_order_to_spawn": summary([spawn - start for start, spawn in zip(to_start, to_spawn, strict=True)]),
        "save_to_spawn": summary(to_spawn),
        "save_to_ready_and_old_one_gone": summary(to_ready),
        "idle_cpu_percent": idle,
    }
    with capsys.disabled():
        sys.stdout.write("\n" + json.dumps(report, indent=1) + "\n")


def idle_cpu(daemon: Daemon, seconds: float = 5.0) -> float:
    """Per cent of one core that the daemon uses while nothing happens."""
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return round(100 * (sum(process.cpu_times()[:2]) - before) / seconds, 2)
