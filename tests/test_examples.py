"""Every file in `examples/` is valid, explains itself, and runs: on simulators in the place of the servers that it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from reconciler import app
from reconciler.core.spec import Fleet
from tests.daemons import Daemon

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(ROOT.joinpath("examples").iterdir())
NAMES = [path.name for path in EXAMPLES]
ENVIRON = {"LLAMACTL_ADMIN_KEY": "a-key-of-more-than-twenty-characters"}
"""What the examples expect of the daemon's environment."""
READY_S = 60.0


def declared(path: Path) -> Fleet:
    """The fleet of one example."""
    return app.check(path, ENVIRON)


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_has_no_problem_and_no_warning(path: Path) -> None:
    fleet = declared(path)
    assert fleet.instances
    assert [str(warning) for warning in fleet.warnings] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_says_first_what_it_is_for(path: Path) -> None:
    for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
        assert file.read_text().startswith("# "), f"{file} does not begin with a comment"


def test_the_readme_names_every_example() -> None:
    text = ROOT.joinpath("README.md").read_text()
    assert [name for name in NAMES if f"examples/{name}" not in text] == []


def test_the_examples_show_every_backend() -> None:
    shown = {spec.backend_type for path in EXAMPLES for spec in declared(path).instances.values()}
    assert shown == {"vllm", "llama_cpp", "mlx_lm", "custom", "external", "simulator"}


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_runs_from_start_to_answer_to_nothing_left(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    if path.is_dir():
        shutil.copytree(path, copy)
    else:
        shutil.copy(path, copy)
    fleet = declared(path)
    daemon = Daemon(tmp_path, settings=ENVIRON)
    try:
        daemon.up("--file", str(copy), "--port", str(daemon.port), "--simulate")
        for name, spec in fleet.instances.items():
            if spec.enabled and spec.state == "running":
                daemon.wait_ready(name, READY_S)
        for name, spec in fleet.instances.items():
            status, answer = _ask(daemon, name)
            assert (status == 200) is spec.enabled, f"{name}: {status} {answer}\n{daemon.evidence()}"
            if spec.enabled:
                assert answer["choices"][0]["message"]["content"].startswith("are you there")
            for alias in spec.aliases:
                assert _ask(daemon, alias)[0] == status
        daemon.down()
        assert daemon.left_over() == []
    finally:
        daemon.clean_up()


def _ask(daemon: Daemon, model: str) -> tuple[int, Any]:
    question = {"model": model, "messages": [{"role": "user", "content": "are you there"}], "max_tokens": 6}
    key = {"Authorization": f"Bearer {ENVIRON['LLAMACTL_ADMIN_KEY']}"}
    status, text = daemon.request("POST", "/v1/chat/completions", question, key)
    assert status != 0, text
    return status, json.loads(text)
