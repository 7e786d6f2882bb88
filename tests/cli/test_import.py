"""``llamactl import``: YAML on stdout that validates, losses on stderr, exit codes, and files that are added to."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from reconciler.config.importers import discover
from tests.cli.conftest import Cli

SWAP = """\
logLevel: info
models:
  org/coder:
    cmd: llama-server --port ${PORT} -m /srv/coder.gguf -c 8192
    ttl: 300
"""
MINE = """\
# mine
instances:
  tiny:   # small
    backend_type: simulator
    backend_options: { model: tiny }
"""
SECRET = "sk-do-not-show-9f8e7d6c5b4a"


@pytest.fixture
def swap(tmp_path: Path) -> Path:
    """A file of llama-swap."""
    path = tmp_path / "swap.yaml"
    path.write_text(SWAP)
    return path


def test_the_yaml_is_on_stdout_and_validates_and_the_losses_are_on_stderr(cli: Cli, swap: Path, tmp_path: Path) -> None:
    result = cli("import", "llama-swap", str(swap))
    assert result.code == 0, "losses are notes"
    made = tmp_path / "made.yaml"
    made.write_text(result.out)
    assert cli("validate", str(made)).out == f"{made}: valid, 1 instance\n"
    assert f"{swap}:1: logLevel: " in result.err
    assert f"{swap}:3: the name 'org/coder': " in result.err
    assert result.err.endswith("1 instance, 2 things could not be carried over as they are\n")


def test_programs_get_the_losses_as_json(cli: Cli, swap: Path) -> None:
    answer = json.loads(cli("import", "llama-swap", str(swap), "-o", "json").out)
    assert answer["instances"] == ["org-coder"]
    assert answer["lost"][0] == {
        "file": str(swap),
        "line": 1,
        "column": None,
        "what": "logLevel",
        "why": answer["lost"][0]["why"],
        "cure": None,
    }
    assert answer["yaml"].startswith("# For completion in your editor: llamactl schema -o llamactl.schema.json")


def test_the_last_line_names_the_variables_to_set_and_with_them_it_is_valid(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = tmp_path / "swap.yaml"
    swap.write_text(SWAP + '    env: ["POOL=${env.ZZ_POOL}"]\napiKeys: ["${env.ZZ_KEY}"]\n')
    result = cli("import", "llama-swap", str(swap))
    assert (result.code, result.err.splitlines()[-1]) == (0, "set ZZ_KEY, ZZ_POOL before you use it")
    (tmp_path / "mine.yaml").write_text(result.out)
    assert cli("validate", str(tmp_path / "mine.yaml")).code != 0
    monkeypatch.setenv("ZZ_KEY", "k" * 40)
    monkeypatch.setenv("ZZ_POOL", "tank")
    assert cli("validate", str(tmp_path / "mine.yaml")).code == 0


@pytest.mark.parametrize("extra", [(), ("--write", "new.yaml")])
def test_an_import_of_nothing_is_1_with_a_last_line_that_says_it(
    cli: Cli, tmp_path: Path, extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("swap.yaml").write_text("models: { m: { cmd: some-image } }\n")
    result = cli("import", "llama-swap", "swap.yaml", *extra)
    assert (result.code, result.out) == (1, "")
    assert "nothing was imported from swap.yaml" in result.err.splitlines()[-1]
    assert not Path("new.yaml").exists()


def test_stdin_is_a_file_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SWAP.encode())))
    result = cli("import", "llama-swap", "-")
    assert "from standard input" in result.out
    assert "<stdin>:1: logLevel" in result.err


def test_a_folder_of_json_is_all_of_its_instances(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "instances"
    folder.mkdir()
    for name in ("a", "b"):
        body = {"name": name, "options": {"backend_type": "llama_cpp", "backend_options": {"model": f"{name}.gguf"}}}
        (folder / f"{name}.json").write_text(json.dumps(body | {"created": 1}))
    result = cli("import", "llamactl-json", str(folder), "-o", "json")
    answer = json.loads(result.out)
    assert answer["instances"] == ["a", "b"]
    assert [one["file"] for one in answer["lost"]] == [str(folder / "a.json"), str(folder / "b.json")]


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["llama-swop", "x"], 64, "there is no kind 'llama-swop'"),
        (["llama-swap"], 64, "name the file to import"),
        ([], 64, "KIND"),
        (["llama-swap", "missing.yaml"], 66, "no such file"),
        (["llama-swap", "."], 66, "folder"),
        (["llamactl-json", "."], 66, "no *.json"),
        (["processes", "x"], 64, "reads no file"),
    ],
)
def test_what_cannot_be_imported_ends_with_the_code_for_it(cli: Cli, argv: list[str], code: int, said: str) -> None:
    if argv[:1] == ["processes"] and "processes" not in discover():
        pytest.skip("no importer without a file")
    result = cli("import", *argv)
    assert (result.code, result.out) == (code, "")
    assert said in result.err


@pytest.mark.parametrize("kind", ["llama-swap", "preset-ini", "llamactl-json", "compose", "systemd"])
@pytest.mark.parametrize("data", [b"\x7fELF\0\0\1", b"\xff\xfe\0", b"[[[[", b"]"])
def test_garbage_is_65_for_every_kind_and_nothing_is_printed(cli: Cli, tmp_path: Path, kind: str, data: bytes) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(data)
    result = cli("import", kind, str(path))
    assert (result.code, result.out) == (65, "")
    assert str(path) in result.err


def test_a_file_of_10_mb_is_not_read(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"models:\n" + b"# padding\n" * 1_000_000)
    result = cli("import", "llama-swap", str(path))
    assert (result.code, result.out) == (66, "")
    assert "larger than 1024 KiB" in result.err


def test_write_adds_to_a_file_with_its_comments_kept(cli: Cli, swap: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(MINE)
    result = cli("import", "llama-swap", str(swap), "--write", str(mine))
    assert (result.code, result.out) == (0, "")
    assert mine.read_text().startswith(MINE)
    assert cli("validate", str(mine)).out == f"{mine}: valid, 2 instances\n"
    assert f"added 1 to {mine}" in result.err


def test_write_makes_a_file_that_is_not_there(cli: Cli, swap: Path, tmp_path: Path) -> None:
    mine = tmp_path / "new.yaml"
    assert cli("import", "llama-swap", str(swap), "--write", str(mine)).code == 0
    assert cli("validate", str(mine)).code == 0


def test_write_refuses_names_that_are_taken_and_touches_nothing(cli: Cli, swap: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(MINE.replace("tiny:  ", "ORG-Coder:"))
    before = mine.read_bytes()
    result = cli("import", "llama-swap", str(swap), "--write", str(mine))
    assert result.code == 1
    assert "declares ORG-Coder already" in result.err
    assert mine.read_bytes() == before


def test_write_refuses_what_would_make_the_file_invalid_and_touches_nothing(
    cli: Cli, swap: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(MINE + "    aliases: [org/coder]\n")
    before = mine.read_bytes()
    result = cli("import", "llama-swap", str(swap), "--write", str(mine))
    assert result.code == 65
    assert "alias" in result.err
    assert mine.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == ["mine.yaml", "swap.yaml"]


def test_write_says_which_sections_stay_behind(cli: Cli, tmp_path: Path) -> None:
    swap = tmp_path / "swap.yaml"
    swap.write_text(SWAP + f"startPort: 9000\napiKeys: [{SECRET}]\n")
    mine = tmp_path / "mine.yaml"
    result = cli("import", "llama-swap", str(swap), "--write", str(mine))
    assert "server: was not added" in result.err
    assert "auth: was not added" in result.err
    assert SECRET not in result.err + mine.read_text()


def test_the_help_lists_every_kind(cli: Cli) -> None:
    result = cli("import", "--help")
    assert result.code == 0
    for kind, importer in discover().items():
        assert kind in result.out
        assert importer.help.split()[0] in result.out
