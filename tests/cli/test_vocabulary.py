"""What is read from an installed program is what files are checked against, as long as the program stays the same; and that is told."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from tests.cli.conftest import Cli
from tests.host.installs import llama_server, mlx_server, runs_of, script

NEW = "--brand-new N                           what nobody knew before (default: 3)"
FILE = """\
backends: {{ llama_executable: {program} }}
instances:
  one:
    backend_type: llama_cpp
    backend_options:
      model: /m.gguf
      brand_new: 4
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A llama-server with an option that the packaged one lacks, on nobody's PATH."""
    return llama_server(tmp_path / "opt" / "llama-server", NEW)


@pytest.fixture
def file(tmp_path: Path, program: Path) -> Path:
    """A file that names it and uses that option."""
    path = tmp_path / "fleet.yaml"
    path.write_text(FILE.format(program=program))
    return path


def test_the_options_are_read_once_and_then_come_from_the_cache(cli: Cli, program: Path, tmp_path: Path) -> None:
    first = cli("vocabulary", "llama-cpp", "--executable", str(program))
    assert first.code == 0, first.err
    assert [line.split()[0] for line in first.out.splitlines()][:2] == ["OPTION", "--help"]
    assert f"reading the options of {program}" in first.err
    assert str(tmp_path / "state" / "vocabularies" / "llama_cpp-") in first.err
    again = cli("vocabulary", "llama_cpp", "--executable", str(program))
    assert again.out == first.out
    assert "from the cache" in again.err
    assert runs_of(program) == 1
    assert "from the cache" not in cli("vocabulary", "llama-cpp", "--executable", str(program), "--refresh").err
    assert runs_of(program) == 2


def test_the_cache_is_private(cli: Cli, program: Path, tmp_path: Path) -> None:
    cli("vocabulary", "llama-cpp", "--executable", str(program))
    folder = tmp_path / "state" / "vocabularies"
    assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder, *folder.iterdir())] == [0o700, 0o700, 0o600]


def test_the_forms_of_the_table(cli: Cli, program: Path) -> None:
    words = ["vocabulary", "llama-cpp", "--executable", str(program)]
    table = json.loads(cli(*words, "-o", "json").out)
    assert (table["backend"], table["version"].split()[0]) == ("llama_cpp", "7000")
    names = cli(*words, "-o", "name").out.split()
    assert names == [option["name"] for option in table["options"]]
    row = next(line for line in cli(*words).out.splitlines() if line.startswith("--brand-new"))
    assert row.split()[1:3] == ["int", "3"]


def test_the_difference_to_the_packaged_version_is_summed_up(cli: Cli, program: Path) -> None:
    said = cli("vocabulary", "llama-cpp", "--executable", str(program)).err
    assert ": 1 new, " in said
    assert "  new: brand_new\n" in said
    gone = next(line for line in said.splitlines() if line.startswith("  gone: "))
    assert " more" in gone
    assert len(gone) < 400


def test_a_file_is_checked_against_what_was_read(cli: Cli, program: Path, file: Path) -> None:
    before = cli("validate", str(file))
    assert before.code == 65
    assert "brand_new" in before.out
    assert "read from" not in before.err
    cli("vocabulary", "llama-cpp", "-f", str(file))
    after = cli("validate", str(file))
    assert after.code == 0, after.out
    assert "options of llama-server 7000" in after.err
    assert f"read from {program}" in after.err
    answer = json.loads(cli("validate", str(file), "-o", "json").out)["files"][0]
    assert [one["program"] for one in answer["installed"]] == [str(program)]
    assert answer["notes"]
    assert cli("plan", "-f", str(file)).code == 0


def test_an_upgrade_makes_no_file_invalid_and_says_what_to_run(cli: Cli, program: Path, file: Path) -> None:
    cli("vocabulary", "llama-cpp", "-f", str(file))
    llama_server(program, NEW, version="7001")
    after = cli("validate", str(file))
    assert after.code == 0
    command = f"llamactl vocabulary llama-cpp --executable {program}"
    assert f"the options of {program} were read before it changed; run `{command}`" in after.err
    assert cli(*shlex.split(command)[1:]).code == 0
    assert cli("validate", str(file)).code == 0
    assert "before it changed" not in cli("validate", str(file)).err


def test_a_touched_program_is_still_the_same(cli: Cli, program: Path, file: Path) -> None:
    cli("vocabulary", "llama-cpp", "-f", str(file))
    program.write_bytes(program.read_bytes())
    assert cli("validate", str(file)).code == 0
    assert runs_of(program) == 1


def test_the_file_says_which_program_then_the_variable_then_the_path(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama_server(tmp_path / "bin" / "llama-server", version="1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert "options of llama-server 1 " in cli("vocabulary", "llama-cpp").err
    named = llama_server(tmp_path / "two", version="2")
    Path("llamactl.yaml").write_text(f"backends: {{ llama_executable: {named} }}\ninstances: {{}}\n")
    assert "options of llama-server 2 " in cli("vocabulary", "llama-cpp").err
    monkeypatch.setenv("LLAMACTL_LLAMA_EXECUTABLE", str(llama_server(tmp_path / "three", version="3")))
    assert "options of llama-server 3 " in cli("vocabulary", "llama-cpp").err
    fourth = llama_server(tmp_path / "four", version="4")
    assert "options of llama-server 4 " in cli("vocabulary", "llama-cpp", "--executable", str(fourth)).err


def test_a_python_program_is_known_by_its_distribution(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = mlx_server(tmp_path / "venv", "--brand-new")
    monkeypatch.setenv("LLAMACTL_MLX_LM_EXECUTABLE", str(made.folder / "bin" / "mlx_lm.server"))
    first = cli("vocabulary", "mlx", "-o", "name")
    assert "brand_new" in first.out.split(), first.err
    assert "options of mlx_lm.server 0.99" in first.err
    Path("llamactl.yaml").write_text(
        "instances: { one: { backend_type: mlx_lm, backend_options: { model: m, brand_new: 1 } } }\n"
    )
    assert cli("validate").code == 0
    made.install("1.0")
    after = cli("validate")
    assert after.code == 0
    assert "before it changed" in after.err
    assert "run `llamactl vocabulary mlx --executable" in after.err


def test_what_cannot_be_read_has_its_exit_code(cli: Cli, tmp_path: Path, program: Path) -> None:
    assert cli("vocabulary", "nope").code == 64
    assert "llama_cpp" in cli("vocabulary", "custom").err
    assert cli("vocabulary", "llama-cpp", "--executable", "'").code == 64
    missing = cli("vocabulary", "llama-cpp", "--executable", str(tmp_path / "nope"))
    assert (missing.code, missing.out) == (66, "")
    assert cli("vocabulary", "vllm", "--executable", f"docker run {program}").code == 1
    assert cli("vocabulary", "llama-cpp", "--executable", "true").code == 1
    failed = cli("vocabulary", "llama-cpp", "--executable", "false")
    assert failed.code == 1
    assert "false --help ended with 1" in failed.err
    assert cli("vocabulary", "llama-cpp", "-f", str(tmp_path / "nope.yaml")).code == 66
    assert not (tmp_path / "state").exists()


def test_a_program_that_is_not_there_is_told_with_where_to_name_another(
    cli: Cli, file: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    names = {"vllm": ("vllm", "VLLM"), "llama-cpp": ("llama", "LLAMA"), "mlx": ("mlx_lm", "MLX_LM")}
    for route, (setting, variable) in names.items():
        said = cli("vocabulary", route).err
        place = (
            f"the file names it as `backends.{setting}_executable`, the environment as LLAMACTL_{variable}_EXECUTABLE"
        )
        assert f"{place}, this command as --executable" in said
    program.unlink()
    assert "`backends.llama_executable`, the environment as LLAMACTL_LLAMA" in cli("validate", "--probe", str(file)).out
    assert "`backends.vllm_executable`, the environment as LLAMACTL_VLLM" in cli("schema", "--installed").err
    assert "backends." not in cli("vocabulary", "vllm", "--executable", "/no/such").err


def test_what_was_run_is_what_a_person_is_told_to_run(cli: Cli, tmp_path: Path) -> None:
    other = script(tmp_path / "other", "#!/bin/sh\necho usage\n")
    said = cli("vocabulary", "llama-cpp", "--executable", f"{other} 60").err
    assert f"run `{other} 60 --help` by hand" in said
    assert "run llama-server" not in said


def test_what_cannot_be_kept_still_counts_for_this_run(
    cli: Cli, program: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_text("a file where a folder should be")
    monkeypatch.setenv("LLAMACTL_STATE_DIR", str(tmp_path / "occupied" / "state"))
    result = cli("vocabulary", "llama-cpp", "--executable", str(program), "-o", "name")
    assert result.code == 0
    assert "brand_new" in result.out
    assert "it counts for this run only" in result.err
    probed = cli("validate", "--probe", str(file))
    assert probed.code == 0, probed.out
    assert "it counts for this run only" in probed.err


def test_a_spoiled_cache_is_put_aside_and_told(
    cli: Cli, program: Path, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cli("vocabulary", "llama-cpp", "-f", str(file))
    [kept] = (tmp_path / "state" / "vocabularies").glob("*.json")
    kept.write_text(kept.read_text().replace('"brand_new"', '"brand_old"'))
    result = cli("validate", str(file))
    assert result.code == 65
    assert not kept.exists()
    assert kept.with_name(kept.name + ".bad").exists()
    assert f"cannot use {kept}: no table of options" in caplog.text


def test_probe_reads_every_program_of_the_file_once(cli: Cli, tmp_path: Path, program: Path, file: Path) -> None:
    other = llama_server(tmp_path / "other", "--only-here N   another one")
    file.write_text(
        FILE.format(program=program)
        + f"  two:\n    backend_type: llama_cpp\n    executable: {other}\n    backend_options: {{ model: m, only_here: 1 }}\n"
        + f"  three:\n    backend_type: llama_cpp\n    executable: {other}\n    backend_options: {{ model: m, only-here: 2 }}\n"
        + "  four: { backend_type: external, backend_options: { url: 'http://127.0.0.1:1' } }\n"
    )
    result = cli("validate", "--probe", str(file))
    assert result.code == 0, result.out + result.err
    assert (runs_of(program), runs_of(other)) == (1, 1)
    assert cli("validate", str(file)).code == 0, "what was read is kept"


def test_a_program_that_is_asked_has_the_variables_that_the_file_gives_it(
    cli: Cli, tmp_path: Path, program: Path, file: Path
) -> None:
    def demanding(path: Path, variable: str) -> None:
        shebang, text = llama_server(path, NEW).read_text().split("\n", 1)
        path.write_text(f'{shebang}\n[ "${variable}" = x ] || exit 9\n{text}')

    demanding(program, "ALL")
    other = tmp_path / "other"
    demanding(other, "OWN")
    text = FILE.format(program=program).replace(" }\n", ", environment: { ALL: x } }\n", 1)
    one = f"{{ backend_type: llama_cpp, executable: {other}, environment: {{ OWN: x }}, backend_options: {{ model: m }} }}"
    file.write_text(f"{text}  two: {one}\n")
    result = cli("validate", "--probe", str(file))
    assert result.code == 0, result.out
    assert cli("vocabulary", "llama-cpp", "-f", str(file), "--refresh").code == 0
    program.write_text(program.read_text() + "# anew\n")
    assert "llama_cpp: options of" in cli("schema", "--installed", "-f", str(file)).err
    file.write_text(f"{text}  two: {one}\n".replace("OWN: x", "OWN: y").replace("ALL: x", "ALL: y"))
    for path in (program, other):
        path.write_text(path.read_text() + "# and again\n")
    assert cli("validate", "--probe", str(file)).out.count("ended with 9") == 2


def test_probe_refuses_what_the_installed_version_lacks_at_its_place(cli: Cli, program: Path, file: Path) -> None:
    file.write_text(FILE.format(program=program).replace("brand_new: 4", "flash_attn: on"))
    assert cli("validate", str(file)).code == 0
    result = cli("validate", "--probe", str(file))
    assert result.code == 65
    assert f"{file}:7:7: error: llama-server 7000" in result.out


def test_probe_names_the_place_of_a_program_that_cannot_be_read(cli: Cli, file: Path, program: Path) -> None:
    program.unlink()
    text = FILE.format(program=program).replace("brand_new: 4", "ctx_size: 4")
    file.write_text(
        text + "  two: { backend_type: llama_cpp, executable: docker run x, backend_options: { model: m } }\n"
    )
    result = cli("validate", "--probe", str(file))
    assert result.code == 65
    assert f"{file}:3:3: error: cannot find the program {program}" in result.out
    assert f"{file}:8:47: error: cannot read options through docker" in result.out
    assert result.out.count("hint:") == 2
    assert cli("validate", str(file)).code == 0


def test_a_program_that_fails_is_asked_once_for_all_its_instances(cli: Cli, tmp_path: Path, file: Path) -> None:
    broken = script(tmp_path / "broken", f"#!/bin/sh\necho asked >> {tmp_path}/asked\nexit 7\n")
    one = f"{{ backend_type: llama_cpp, executable: {broken}, backend_options: {{ model: m }} }}"
    file.write_text(f"instances:\n  one: {one}\n  two: {one}\n")
    result = cli("validate", "--probe", str(file))
    assert result.code == 65
    assert result.out.count("ended with 7") == 2, "each instance is told"
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_the_schema_of_the_installed_versions_holds_their_help(
    cli: Cli, program: Path, file: Path, tmp_path: Path
) -> None:
    packaged = cli("schema").out
    result = cli("schema", "--installed", "-f", str(file))
    assert result.code == 0, result.err
    schema = json.loads(result.out)
    option = schema["$defs"]["options.llama_cpp"]["properties"]["brand-new"]
    assert option["description"].lower().startswith("what nobody knew before")
    document = {"instances": {"a": {"backend_type": "llama_cpp", "backend_options": {"model": "m", "brand_new": 1}}}}
    jsonschema.validate(document, schema)
    document["instances"]["a"]["backend_options"] = {"model": "m", "flash_attn": "on"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)
    assert "llama_cpp: options of llama-server 7000" in result.err
    assert "vllm: the packaged options, because: cannot find the program vllm" in result.err
    assert "llama-server 7000" in schema["$comment"]
    assert schema["$comment"].endswith(json.loads(packaged)["$comment"]), "what only the loader can check is still said"
    assert cli("schema").out == packaged, "the plain schema is the same on every host"
    target = tmp_path / "schema.json"
    assert cli("schema", "--installed", "-f", str(file), "-o", str(target)).code == 0
    assert json.loads(target.read_text()) == schema
    assert runs_of(program) == 1


def test_a_schema_of_nothing_installed_is_a_failure(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    result = cli("schema", "--installed")
    assert (result.code, result.out) == (1, "")
    assert cli("schema", "-f", "x.yaml").code == 64


def test_a_command_that_is_ended_leaves_no_program_behind(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = script(tmp_path / "slow", f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}\nexec sleep 600\n")
    words = [sys.executable, "-m", "reconciler", "vocabulary", "llama-cpp", "--executable", str(program)]
    asking = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
    )
    try:
        deadline = time.monotonic() + 20
        while not pid.exists():
            assert time.monotonic() < deadline
            assert asking.poll() is None
            time.sleep(0.02)
        asking.terminate()
        asking.wait(20)
    finally:
        asking.kill()
        asking.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
