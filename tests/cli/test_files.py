"""``validate``, ``parse``, ``schema`` and the plan for an empty host: the real rooms behind them, no daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.cli.conftest import Cli

GOOD = """\
# mine
instances:
  tiny:   # small
    backend_type: simulator
    backend_options: { model: tiny }
"""
BAD = """\
server: { prot: 8080 }
instances:
  a:
    backend_type: vlm
  b:
    backend_type: vllm
    backend_options: { model: m, port: 99999 }
  c:
    backend_type: simulator
    enabled: perhaps
  d:
    backend_type: simulator
    idle_timeout: 30
"""
COMMAND = "vllm serve Qwen/Qwen3-0.6B --max-model-len 8192 --port 9000"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A valid file."""
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A file with five mistakes of different kinds."""
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path


def test_a_valid_file_is_0_and_counted(cli: Cli, good: Path) -> None:
    result = cli("validate", str(good))
    assert (result.code, result.out) == (0, f"{good}: valid, 1 instance\n")


def test_five_mistakes_are_reported_at_once_with_their_places(cli: Cli, bad: Path) -> None:
    result = cli("validate", str(bad))
    assert result.code == 65
    for line in (1, 4, 7, 10, 13):
        assert f"{bad}:{line}:" in result.out
    assert result.out.splitlines()[-1] == f"{bad}: invalid, 5 problems"
    assert result.out.count("^") == 5


def test_the_json_of_validate_has_the_same_problems(cli: Cli, good: Path, bad: Path) -> None:
    result = cli("validate", str(good), "-f", str(bad), "-o", "json")
    assert result.code == 65
    answer = json.loads(result.out)
    assert [each["valid"] for each in answer["files"]] == [True, False]
    assert [each["line"] for each in answer["files"][1]["problems"]] == [1, 4, 7, 10, 13]
    assert answer["valid"] is False


def test_a_file_that_cannot_be_read_is_66(cli: Cli, good: Path, bad: Path, tmp_path: Path) -> None:
    result = cli("validate", str(bad), str(tmp_path / "nope.yaml"))
    assert result.code == 66
    assert "nope.yaml" in result.out
    assert cli("validate").code == 66


def test_validate_finds_the_file_as_the_daemon_does(cli: Cli, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("llamactl.yaml").write_text(BAD)
    assert cli("validate").code == 65
    monkeypatch.setenv("LLAMACTL_CONFIG_PATH", str(good))
    assert cli("validate").code == 0


def test_plan_without_any_daemon_is_for_an_empty_host_and_says_so(cli: Cli, good: Path, bad: Path) -> None:
    result = cli("plan", "-f", str(good), "--detailed-exitcode")
    assert result.code == 2
    assert "+ tiny  create" in result.out
    assert "empty host" in result.err
    refused = cli("plan", "-f", str(bad))
    assert (refused.code, refused.out) == (65, "")
    assert f"{bad}:1:" in refused.err


def test_the_schema_accepts_the_valid_file_and_is_written_where_asked(cli: Cli, tmp_path: Path) -> None:
    document = json.loads(cli("schema").out)
    jsonschema.validators.validator_for(document).check_schema(document)
    target = tmp_path / "schema.json"
    result = cli("schema", "-o", str(target))
    assert (result.code, result.out) == (0, "")
    assert json.loads(target.read_text()) == document
    assert cli("schema", "-o", str(tmp_path / "no" / "such" / "folder.json")).code == 1


def test_parse_prints_yaml_that_is_valid(cli: Cli, tmp_path: Path) -> None:
    result = cli("parse", COMMAND)
    assert result.code == 0
    assert "max_model_len: 8192" in result.out
    written = tmp_path / "parsed.yaml"
    written.write_text(result.out)
    assert cli("validate", str(written)).code == 0


def test_parse_takes_words_stdin_and_a_name(cli: Cli) -> None:
    whole = cli("parse", COMMAND).out
    assert cli("parse", "--", *COMMAND.split()).out == whole
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "parse", "-"],
        input=COMMAND,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == whole
    assert cli("parse", COMMAND, "--name", "mine").out.splitlines()[1].strip() == "mine:"
    assert cli("parse", COMMAND, "--name", "no/slash").code == 64


def test_the_json_of_parse_is_that_of_the_api(cli: Cli) -> None:
    answer = json.loads(cli("parse", COMMAND, "-o", "json").out)
    assert set(answer) == {
        "backend_type", "backend_options", "environment", "extra_args", "executable", "name", "warnings", "yaml",
    }  # fmt: skip
    assert answer["backend_type"] == "vllm"
    assert answer["yaml"] == cli("parse", COMMAND).out


def test_a_command_that_makes_no_sense_is_65(cli: Cli) -> None:
    assert cli("parse", "vllm serve 'unclosed").code == 65
    assert cli("parse", "ls -l").code == 65
    assert cli("parse", "ls -l", "--backend", "nope").code == 65


def test_parse_adds_to_a_file_and_keeps_its_comments(cli: Cli, good: Path) -> None:
    result = cli("parse", COMMAND, "--write", str(good), "--name", "qwen")
    assert (result.code, result.out) == (0, "")
    text = good.read_text()
    assert text.startswith(GOOD)
    assert "  qwen:" in text
    again = cli("parse", COMMAND, "--write", str(good), "--name", "QWEN")
    assert again.code == 1
    assert "--name" in again.err
    assert good.read_text() == text


def test_parse_makes_a_new_file_and_leaves_a_broken_one_alone(cli: Cli, bad: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    assert cli("parse", COMMAND, "--write", str(new)).code == 0
    assert cli("validate", str(new)).code == 0
    assert cli("parse", COMMAND, "--write", str(bad)).code == 65
    assert bad.read_text() == BAD
    assert sorted(each for each in os.listdir(tmp_path) if each.startswith(".")) == []
