"""Small files for end-to-end tests, and what a test asks a running daemon."""

from __future__ import annotations

import json
from typing import Any

from tests.daemons import Daemon


def write(daemon: Daemon, *instances: str, head: str = "") -> None:
    """Make the daemon's file: a comment, the server's place, the given instances."""
    body = "\n".join(instances) if instances else "  {}"
    opening = "instances:" if instances else "instances: {}"
    text = f"# a comment that must stay\nserver: {{host: 127.0.0.1, port: {daemon.port}}}\n{head}{opening}\n"
    daemon.file.write_text(text + (body if instances else "") + "\n", encoding="utf-8")


def simulated(name: str, *more: str, **options: object) -> str:
    """One simulator instance as YAML; ``more`` are further lines of the instance."""
    shown = ", ".join(
        f"{key.replace('_', '-')}: {json.dumps(value)}" for key, value in {"model": name, **options}.items()
    )
    lines = [
        f"  {name}:",
        "    backend_type: simulator",
        f"    backend_options: {{{shown}}}",
        *(f"    {m}" for m in more),
    ]
    return "\n".join(lines)


def status(daemon: Daemon) -> dict[str, Any]:
    """``GET /api/v1/status``."""
    code, body = daemon.get("/api/v1/status")
    assert code == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def instance(daemon: Daemon, name: str) -> dict[str, Any]:
    """One instance's status; empty when there is none."""
    return next((one for one in status(daemon)["instances"] if one["name"] == name), {})


def pids(daemon: Daemon) -> dict[str, list[int]]:
    """The backends' own main processes, by instance."""
    return {one["name"]: [replica["pid"] for replica in one["replicas"]] for one in status(daemon)["instances"]}


def ready(daemon: Daemon, *names: str, deadline_s: float = 30.0) -> None:
    """Wait until these instances are ready, and up to date with the file."""

    def holds() -> bool:
        found = {one["name"]: one for one in status(daemon)["instances"]}
        return all(
            name in found and found[name]["ready"] and found[name]["generation"] == found[name]["observed_generation"]
            for name in names
        )

    daemon.until(holds, what=f"{names} to be ready", deadline_s=deadline_s)
