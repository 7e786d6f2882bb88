"""How long a pasted command takes over HTTP against a real daemon: forty flags understood, a megabyte of garbage refused.

Measured from outside, on one kept connection, from the request's first byte to the answer's last, with the bar of each beside it.
Prints one JSON object; `pytest tests/bench -m bench -n 0` runs it.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from reconciler.backends._vocabulary import Kind, Option, Type, load
from tests.daemons import Daemon
from tests.e2e.fleets import ready, simulated, write

REQUESTS = 1000
WARM_UP = 30
GARBAGE_REQUESTS = 10
FLAGS = 40
MEGABYTE = 1_000_000
"""Characters; the API takes bodies of 1 MiB."""
GARBAGE = {
    "one_word": "x",
    "blanks": " ",
    "single_quotes": "''",
    "unknown_flags": "--frobnicate 1 ",
    "backslashes": "/\\",
    "json_depth": "[",
    "dollars": "$a ",
    "dashes": "-",
    "assignments": "A=1 ",
    "asterisks": "*",
    "lines": "a\n",
    "snowmen": "\u2603",
}


def forty_flags() -> str:
    """A vLLM command with values of every type, over several lines."""
    words = ["CUDA_VISIBLE_DEVICES=0 vllm serve org/model"]
    for option in load("vllm"):
        word = None if len(words) > FLAGS else _given(option)
        if word is not None:
            words.append(word)
    assert len(words) == FLAGS + 1
    return " \\\n  ".join(words)


def _given(option: Option) -> str | None:
    if option.exits or option.secret or option.positional or option.name in ("host", "port", "headless", "grpc", "uds"):
        return None
    match option.kind, option.type:
        case (Kind.SWITCH, _):
            return option.flag
        case (Kind.VALUE, Type.INT) if not option.choices:
            return f"{option.flag} 3"
        case (Kind.VALUE, Type.JSON) if not option.text:
            return f"{option.flag} '{{\"a\": [1, 2.5, null]}}'"
        case (Kind.VALUE, Type.STR) if not option.choices:
            return f"{option.flag} 'a b'"
        case _:
            return None


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: the middle, the 99th of 100, the most."""
    ordered = sorted(1000 * one for one in seconds)
    return {
        "median": round(ordered[len(ordered) // 2], 2),
        "p99": round(ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))], 2),
        "max": round(ordered[-1], 2),
    }


def measure(connection: http.client.HTTPConnection, command: str, times: int, expected: int) -> list[float]:
    """Seconds of each request; every answer must have this status."""
    body = json.dumps({"command": command}, ensure_ascii=False).encode()
    took = []
    for _ in range(times):
        started = time.perf_counter()
        connection.request("POST", "/api/v1/backends/vllm/parse-command", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        took.append(time.perf_counter() - started)
        assert answer.status == expected, said[:500]
    return took


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_parse_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(tmp_path)
    write(daemon, simulated("model", token_delay_ms=5, load_seconds=0.0))
    daemon.up()
    try:
        ready(daemon, "model")
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
        command = forty_flags()
        measure(connection, command, WARM_UP, 200)
        assert daemon.process is not None
        process = psutil.Process(daemon.process.pid)
        before = sum(process.cpu_times()[:2])
        understood = summary(measure(connection, command, REQUESTS, 200))
        cpu = round(1000 * (sum(process.cpu_times()[:2]) - before) / REQUESTS, 2)
        unknown = "vllm serve m " + " ".join(f"--unknown-{at} {at}" for at in range(FLAGS))
        forty_unknown = summary(measure(connection, unknown, REQUESTS // 10, 200))
        refused = {}
        for name, piece in GARBAGE.items():
            many = MEGABYTE // len(json.dumps(piece, ensure_ascii=False).encode()[1:-1])
            refused[name] = summary(measure(connection, "vllm serve m " + piece * many, GARBAGE_REQUESTS, 400))
        connection.close()
        daemon.down()
    finally:
        daemon.clean_up()
    report = {
        "what": "parse-command over HTTP",
        "unit": "ms",
        "requests": REQUESTS,
        "forty_flags": understood,
        "daemon_cpu_per_request": cpu,
        "bar_forty_flags_p99": 5,
        "forty_unknown_flags": forty_unknown,
        "megabyte_refused": refused,
        "bar_megabyte_refused": 50,
    }
    with capsys.disabled():
        sys.stdout.write("\n" + json.dumps(report, indent=1) + "\n")
