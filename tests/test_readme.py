"""The README does as it says: every command in it is run, in order, as one story against a daemon with simulators.

Blocks tagged `sh` are run by bash; a `yaml` block whose first line names a file is written there; a `text` block is shown and not run
(an output, or what only a host with systemd can do). Nothing is replaced but the port, and the two lines that set the project up:
those are run elsewhere, the demo's here in a fresh clone of its own, the tests' by `.ci/run`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest

from reconciler import app
from reconciler.core.spec import BackendsSpec
from tests.daemons import Daemon

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PORT = "8080"
BLOCK_S = 60.0
DEMO = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/llamactl demo"
TESTS = "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest"
DAEMON = "llamactl up"
ENVIRON = {
    "LLAMACTL_VLLM_EXECUTABLE": f"{sys.executable} -m reconciler.simulator vllm",
    "LLAMACTL_LLAMA_EXECUTABLE": f"{sys.executable} -m reconciler.simulator llama_cpp",
}
MUST_SAY: Mapping[str, str] = {
    "validate llamactl.yaml": r"valid, 1 instance",
    "wait qwen": r"Are you there",
    'parse "llama-server': r"coder +llama_cpp +running +ready",
    "plan -f next.yaml": r"coder[^\n]*\n(?:.*\n)*.*ctx_size",
    "parse-command": r'"tensor_parallel_size": ?2',
    "instances/my-vllm-model \\": r'"name": ?"my-vllm-model"',
    "v1/chat/completions": r"Hello!",
    "status -o wide": r"qwen +vllm +running +ready",
    "import llama-swap": r"swap\.yaml:7: models\.phi\.concurrencyLimit: ",
    "simulate vllm --help": r"--load-seconds",
}
"""What a block that holds the first must print: a story whose commands all end well and say nothing is no story."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    tag: str
    text: str
    line: int


def blocks() -> Iterator[Block]:
    """Every fenced block, in order."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2], README.count("\n", 0, found.start()) + 1)


def test_the_two_commands_of_the_start_stand_there_as_they_are() -> None:
    lone = [block.text.strip() for block in blocks() if block.tag == "sh" and block.text.count("\n") == 1]
    assert lone[:2] == [DEMO, TESTS]


def test_few_blocks_are_not_run() -> None:
    tags = [block.tag for block in blocks()]
    assert set(tags) == {"sh", "yaml", "text"}
    assert tags.count("text") <= 3, "a text block is not run: keep them few"


def test_the_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#][^)]*)\)", README)
    assert links
    assert [link for link in links if not (ROOT / unquote(link)).exists()] == []
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", README, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_the_story_runs_as_printed(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, settings={**ENVIRON, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    said: dict[str, str] = {}
    try:
        for block in blocks():
            text = block.text.replace(PORT, str(daemon.port))
            if block.tag == "yaml":
                name = re.match(r"# (\S+\.yaml)\n", text)
                assert name, f"README.md:{block.line}: the first line of a yaml block names its file"
                (tmp_path / name[1]).write_text(text)
            elif block.tag == "sh" and text.strip() == DAEMON:
                daemon.up()
            elif block.tag == "sh" and block.text.strip() not in (DEMO, TESTS):
                said[block.text] = _run(daemon, text, block.line)
        for part, pattern in MUST_SAY.items():
            printed = [out for command, out in said.items() if part in command]
            assert printed, f"no block holds {part!r}"
            assert any(re.search(pattern, out) for out in printed), f"{part!r} printed:\n{printed}"
        _look_at_the_end(daemon)
        daemon.down()
        assert daemon.left_over() == []
    finally:
        daemon.clean_up()


def _run(daemon: Daemon, text: str, line: int) -> str:
    """Run one block from top to bottom; the first command that fails fails the block."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=daemon.folder,
        env=daemon.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BLOCK_S,
        check=False,
    )
    place = f"README.md:{line}: ended with {done.returncode}\n{text}\n{done.stdout}{done.stderr}\n{daemon.evidence()}"
    assert done.returncode == 0, place
    return done.stdout + done.stderr


def _look_at_the_end(daemon: Daemon) -> None:
    """What the story promised: the comments are still there, and the file says what runs."""
    text = daemon.file.read_text()
    assert "# requests may use this name too" in text
    assert "ctx_size: 16384" in text
    fleet = app.check(daemon.file, ENVIRON)
    assert set(fleet.instances) == {"qwen", "coder", "my-vllm-model"}
    assert fleet.instances["coder"].enabled
    names = {one["name"] for one in daemon.status()["instances"]}
    assert names == set(fleet.instances)


def test_a_mistake_is_shown_as_the_readme_shows_it(tmp_path: Path) -> None:
    shown = next(block.text for block in blocks() if block.tag == "text" and "error:" in block.text)
    first = next(block.text for block in blocks() if block.tag == "yaml")
    (tmp_path / "llamactl.yaml").write_text(first.replace("gpu_memory_utilization", "gpu_memory_utilisation"))
    outcome = Daemon(tmp_path).run("validate", "llamactl.yaml")
    assert outcome.code == 65
    assert shown.strip() in outcome.text


def test_every_file_that_is_shown_is_valid(tmp_path: Path) -> None:
    shown = [block for block in blocks() if block.tag == "yaml" and "\ninstances:" in block.text]
    assert len(shown) > 1
    for block in shown:
        (tmp_path / "shown.yaml").write_text(block.text)
        outcome = Daemon(tmp_path).run("validate", "shown.yaml")
        assert "shown.yaml: valid, " in outcome.text, f"README.md:{block.line}: {outcome.text}"
    settings = {name for block in shown for name in re.findall(r"\w+_executable(?=:)", block.text)}
    assert settings == {name for name in BackendsSpec.model_fields if name.endswith("_executable")}


def test_the_named_variables_and_settings_exist() -> None:
    source = "".join(path.read_text() for path in ROOT.joinpath("reconciler").rglob("*.py"))
    named = set(re.findall(r"\bLLAMACTL_\w+", README))
    assert {name for name in named if name not in source} == set()
    settings = set(re.findall(r"`server\.(\w+)`", README))
    assert settings <= set(app.schema({})["$defs"]["ServerSpec"]["properties"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_command_works_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, timeout=60, capture_output=True)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LLAMACTL_", "VIRTUAL_ENV", "PYTHON"))
    }
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part != here)
    done = subprocess.run(
        ["bash", "-c", f"{DEMO} --once"],
        cwd=clone,
        env={**kept, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    installed = subprocess.run(
        [clone / ".venv/bin/python", "-c", "import json, reconciler; print(json.dumps(reconciler.__file__))"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert Path(json.loads(installed.stdout)).is_relative_to(clone / ".venv"), "the demo ran from somewhere else"
    shutil.rmtree(clone)
