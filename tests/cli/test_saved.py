"""Commands right after a save, against a real daemon: what is in the file counts, however soon they come."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from reconciler.cli import waiting
from tests.cli.conftest import Cli
from tests.cli.test_daemon import FILE, running, until

__all__ = ["running"]

SAVES = 20


def test_an_instance_of_the_last_of_two_saves_is_waited_for_at_once(
    cli: Cli, running: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    file = tmp_path / "llamactl.yaml"

    def save(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    until(lambda: cli("status").code == 0, "a daemon that answers")
    text = FILE
    for turn in range(SAVES):
        save(text + f"# {turn}\n")
        text += f"  n{turn}: {{ backend_type: simulator, enabled: false }}\n"
        save(text)
        outcome = cli("wait", f"n{turn}", "--for", "stopped", "--timeout", "30s")
        assert outcome.code == 0, f"{turn}: {outcome.err}"
    unknown = cli("wait", "nobody", "--for", "ready")
    assert unknown.code == 1
    assert "cannot wait for nobody: there is no such instance" in unknown.err
    assert cli("wait", "tiny", "--for", "ready", "--timeout", "30s").code == 0
    save(text.replace("model: tiny ", "model: other "))
    assert cli("wait", "tiny", "--for", "ready", "--timeout", "30s").code == 0
    save(text.replace("backend_type: simulator\n", "backend_type: similator\n", 1))
    refused = cli("wait", "nobody", "--for", "ready")
    assert refused.code == 1
    assert "the file is refused" in refused.err
