"""``parse`` as somebody types it: where its options may stand, and by which program's options the command is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reconciler.host.store import state_dir
from reconciler.installed.known import Installed
from tests.cli.conftest import Cli
from tests.host.installs import llama_server

KIND = "llama_cpp"
NEW = "--brand-new N                           as of late (default: 3)"
PASTED = "llama-server -m /m/q.gguf --brand-new 7"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A server whose options were read before, and kept in the usual state folder."""
    made = llama_server(tmp_path / "odd" / "my-server", NEW)
    Installed(os.environ, state_dir(None, os.environ)).read(KIND, (str(made),))
    return made


def options(cli: Cli, *args: str) -> dict[str, object]:
    """What ``parse -o json`` makes of the pasted command."""
    result = cli(*args, "parse", PASTED, "-o", "json")
    assert result.code == 0, result.err
    found: dict[str, object] = json.loads(result.out)["backend_options"]
    return found


def test_words_that_no_quotes_hold_together_are_the_commands_own(cli: Cli) -> None:
    whole = cli("parse", "vllm serve a/b --max-model-len 10 --seed 1").out
    assert whole
    assert cli("parse", "vllm", "serve", "a/b", "--max-model-len", "10", "--seed", "1").out == whole
    assert cli("parse", "--", "vllm", "serve", "a/b", "--max-model-len", "10", "--seed", "1").out == whole
    assert cli("parse", "--backend", "vllm", "--model", "a/b", "--max-model-len", "10", "--seed", "1").out == whole
    assert cli("parse", "--model a/b --max-model-len 10 --seed 1").out == whole


@pytest.mark.parametrize(
    "args",
    [
        ("--name", "n", "-o", "json", "vllm", "serve", "a/b"),
        ("vllm", "serve", "a/b", "--name", "n", "-o", "json"),
        ("-ojson", "--name=n", "vllm serve a/b"),
        ("vllm serve a/b", "--name", "n", "--output=json"),
        ("--name", "n", "vllm serve a/b", "--backend", "vllm", "-o", "json"),
        ("--name", "n", "-o", "json", "--", "vllm", "serve", "a/b"),
    ],
)
def test_its_own_options_stand_before_the_command_or_at_the_end(cli: Cli, args: tuple[str, ...]) -> None:
    found = json.loads(cli("parse", *args).out)
    assert (found["backend_options"], found["extra_args"]) == ({"model": "a/b"}, [])
    assert "  n:\n" in found["yaml"]


def test_what_stands_within_the_command_is_its_own(cli: Cli) -> None:
    container = ["docker", "run", "--rm", "--name", "x", "--network", "host", "vllm/vllm-openai", "--model", "m"]
    assert json.loads(cli("parse", "-o", "json", *container).out)["name"] == "m"
    after = cli("parse", "-o", "json", "--", "vllm", "serve", "a/b", "--name", "x")
    assert json.loads(after.out)["extra_args"] == ["--name", "x"]
    assert "--help starts no server" in cli("parse", "vllm", "serve", "--help").err
    assert "--backend" in cli("parse", "--help").out
    assert "Did you mean '--backend'" in cli("parse", "--backnd", "vllm", "vllm", "serve", "m").err


def test_a_variable_before_the_command_keeps_its_blanks(cli: Cli) -> None:
    assert json.loads(cli("parse", "-o", "json", "A=x y", "vllm", "serve", "m/x").out)["environment"] == {"A": "x y"}


def test_a_command_is_read_by_the_program_that_the_variable_names(
    cli: Cli, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "brand_new" not in options(cli)
    monkeypatch.setenv("LLAMACTL_LLAMA_EXECUTABLE", str(program))
    assert options(cli)["brand_new"] == 7


def test_a_command_is_read_by_the_program_that_the_file_names(
    cli: Cli, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"backends:\n  llama_executable: {program}\ninstances: {{}}\n")
    assert cli("parse", PASTED, "--write", str(file)).code == 0
    assert "brand_new: 7" in file.read_text()
    assert "brand_new" not in options(cli)
    monkeypatch.setenv("LLAMACTL_CONFIG_PATH", str(file))
    assert options(cli)["brand_new"] == 7


def test_a_file_that_cannot_tell_its_programs_is_named_and_stops_nothing(cli: Cli) -> None:
    file = Path("llamactl.yaml")
    file.write_text("backends: [\n")
    broken = cli("parse", PASTED)
    assert broken.code == 0
    assert "the programs that llamactl.yaml names are not considered" in broken.err
    file.write_text("backends: {}\ninstances: {x: {backend_type: nope}}\n")
    assert "not considered" not in cli("parse", PASTED).err, "what is wrong elsewhere does not matter"


def test_the_state_folder_that_is_named_is_the_one_that_is_used(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = llama_server(tmp_path / "odd" / "my-server", NEW)
    other = tmp_path / "other-state"
    Installed(os.environ, other).read(KIND, (str(program),))
    monkeypatch.setenv("LLAMACTL_LLAMA_EXECUTABLE", str(program))
    assert "brand_new" not in options(cli)
    assert options(cli, "--state-dir", str(other))["brand_new"] == 7


def test_import_goes_by_the_same_programs_and_the_same_state_folder(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = llama_server(tmp_path / "odd" / "my-server", NEW)
    other = tmp_path / "other-state"
    Installed(os.environ, other).read(KIND, (str(program),))
    swap = tmp_path / "swap.yaml"
    swap.write_text(f"models:\n  q:\n    cmd: {PASTED} --port ${{PORT}}\n")
    monkeypatch.setenv("LLAMACTL_LLAMA_EXECUTABLE", str(program))
    assert "brand_new: 7" not in cli("import", "llama-swap", str(swap)).out
    assert "brand_new: 7" in cli("--state-dir", str(other), "import", "llama-swap", str(swap)).out
    monkeypatch.delenv("LLAMACTL_LLAMA_EXECUTABLE")
    target = tmp_path / "mine.yaml"
    target.write_text(f"backends:\n  llama_executable: {program}\ninstances: {{}}\n")
    result = cli("--state-dir", str(other), "import", "llama-swap", str(swap), "--write", str(target))
    assert result.code == 0, result.err
    assert "brand_new: 7" in target.read_text(), target.read_text() + result.err


def test_a_flag_that_the_program_itself_lost_is_left_out_with_its_value(
    cli: Cli, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMACTL_LLAMA_EXECUTABLE", str(program))
    result = cli("parse", "llama-server -m /m/q.gguf --log-format json --frob 1", "-o", "json")
    assert json.loads(result.out)["extra_args"] == ["--frob", "1"], "unknown is not gone"
    assert "no longer has --log-format, which was left out: use log_jsonl" in result.err
