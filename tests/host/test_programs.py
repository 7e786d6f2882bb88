"""The program that some words start is found as the daemon would find it, and is known again only as long as it is the same."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from reconciler.core.errors import Rejected
from reconciler.host import programs
from reconciler.host.programs import NOT_FOUND, OPAQUE, Program, find, identify, same, unchanged
from tests.host.installs import Environment, script

PATH = {"PATH": os.defpath}


def found(
    *words: str, python: bool = True, directory: Path | None = None, environ: dict[str, str] | None = None
) -> Program:
    """:func:`find` with what does not matter left out."""
    return find(words, environ=environ or PATH, directory=str(directory or Path("/")), python=python)


def refused(*words: str, python: bool = True, directory: Path | None = None) -> tuple[str, str, str]:
    """Code, message and cure of a refusal."""
    with pytest.raises(Rejected) as caught:
        found(*words, python=python, directory=directory)
    problem = caught.value.problems[0]
    assert problem.hint
    return problem.code, problem.message, problem.hint


def test_a_console_script_is_run_by_the_python_of_its_environment(tmp_path: Path) -> None:
    made = Environment(tmp_path / "venv")
    by_path = found(str(made.program))
    assert by_path.path == str(made.program)
    assert by_path.interpreter == (str(made.python),)
    assert same(found("served", environ=made.find_path()), by_path), "PATH and path lead to the same"
    assert same(found("venv/bin/served", directory=tmp_path), by_path), "and so does a path from the folder"


@pytest.mark.parametrize(
    "head",
    [
        "#!{python}",
        "#! {python} ",
        "#!/usr/bin/env -S {python}",
        "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''",
        "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''",
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python3' \"$0\" \"$@\"\n' '''",
    ],
)
def test_every_first_line_that_installers_write_is_understood(head: str, tmp_path: Path) -> None:
    made = Environment(tmp_path / "venv")
    program = script(made.folder / "bin" / "other", head.format(python=made.python) + "\nprint(1)\n")
    assert found(str(program)).interpreter == (str(made.python),)


def test_env_in_the_first_line_looks_on_the_path(tmp_path: Path) -> None:
    made = Environment(tmp_path / "venv")
    program = script(tmp_path / "other", "#!/usr/bin/env python3\n")
    assert found(str(program), environ=made.find_path()).interpreter == (str(made.python),)


def test_python_with_a_module_or_a_script_keeps_its_flags(tmp_path: Path) -> None:
    made = Environment(tmp_path / "venv")
    python = str(made.python)
    assert found(python, "-X", "utf8", "-I", "-m", "served.cli").interpreter == (python, "-X", "utf8", "-I")
    direct = found(python, "-s", "venv/bin/served", directory=tmp_path)
    assert (direct.path, direct.interpreter) == (str(made.program), (python, "-s"))
    assert refused(python, "-c", "import served")[0] == OPAQUE
    assert refused(python)[0] == OPAQUE
    assert refused(python, "nope.py")[0] == NOT_FOUND


@pytest.mark.parametrize("first", ["env", "nice", "uv", "uvx", "/usr/bin/docker", "podman", "sudo", "conda", "bash"])
def test_what_starts_another_program_cannot_be_read_and_says_what_to_do(first: str) -> None:
    code, message, _ = refused(first, "run", "vllm")
    assert code == OPAQUE
    assert f"through {first.rsplit('/', 1)[-1]}:" in message


def test_a_program_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    assert "in no folder of the PATH" in refused("no-such-program")[1]
    assert str(tmp_path / "no" / "such") in refused("no/such", directory=tmp_path)[1]
    code, _, hint = refused("~/bin/vllm", directory=tmp_path)
    assert (code, "~ is not expanded" in hint) == (NOT_FOUND, True)
    closed = tmp_path / "closed"
    closed.write_text("#!/bin/sh\n")
    assert "no right to execute" in refused(str(closed))[1]
    assert refused(str(tmp_path))[0] == NOT_FOUND


def test_a_program_of_another_kind_is_no_python_program(tmp_path: Path) -> None:
    shell = script(tmp_path / "start.sh", "#!/bin/bash\nexec vllm\n")
    assert "/bin/bash runs it, not Python" in refused(str(shell))[1]
    binary = script(tmp_path / "binary", "\x7fELF")
    assert "it is no script, not Python" in refused(str(binary))[1]
    moved = script(tmp_path / "moved", f"#!{tmp_path}/gone/bin/python3\n")
    code, message, hint = refused(str(moved))
    assert (code, "gone/bin/python3 is not there" in message, "install it anew" in hint) == (NOT_FOUND, True, True)


def test_a_shell_script_that_is_asked_itself_is_read_with_a_caveat(tmp_path: Path) -> None:
    shell = script(tmp_path / "llama-server", "#!/bin/sh\nexec other\n")
    assert found(str(shell), "serve", python=False).command == (str(shell), "serve")
    assert "not noticed" in (found(str(shell), python=False).caveat or "")
    assert found(sys.executable, python=False).caveat is None


def test_an_upgrade_changes_the_identity_and_a_touch_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_GRANULARITY_S", 0.0)
    made = Environment(tmp_path / "venv")
    program = found(str(made.program))
    first = identify(program, "served")
    assert first.site == str(made.site)
    assert unchanged(first.seen)
    os.utime(made.program)
    assert not unchanged(first.seen), "its times are others, so that it is read again"
    assert identify(program, "served").digest == first.digest
    made.install("1.1")
    assert not unchanged(first.seen)
    assert identify(program, "served").digest != first.digest
    made.install("1.0")
    assert identify(program, "served").digest == first.digest


def test_the_same_version_with_other_files_is_another_program(tmp_path: Path) -> None:
    made = Environment(tmp_path / "venv")
    before = identify(found(str(made.program)), "served")
    (made.site / "served-1.0.dist-info" / "RECORD").write_text("served/__init__.py,sha256=patched,11\n")
    assert identify(found(str(made.program)), "served") != before


def test_a_distribution_is_found_under_every_spelling_of_its_name_and_no_other(tmp_path: Path) -> None:
    made = Environment(tmp_path / "venv", name="served_lm")
    program = found(str(made.program))
    assert identify(program, "Served.LM").site == str(made.site)
    assert identify(program, "served").site is None
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "served-3.dist-info").mkdir(parents=True)
    (elsewhere / "served-3.dist-info" / "METADATA").write_text("Version: 3\n")
    assert identify(program, "served", str(elsewhere)).site == str(elsewhere)


def test_a_program_of_its_own_is_its_bytes(tmp_path: Path) -> None:
    path = script(tmp_path / "llama-server", "one")
    program = found(str(path), python=False)
    first = identify(program, None)
    path.write_text("two")
    assert identify(program, None).digest != first.digest
    path.write_text("one")
    assert identify(program, None).digest == first.digest
    path.unlink()
    assert not unchanged(first.seen)
    with pytest.raises(Rejected):
        identify(program, None)


def test_the_quoting_of_a_folder_does_not_matter(tmp_path: Path) -> None:
    made = Environment(tmp_path / "a folder's")
    head = f"#!/bin/sh\n'''exec' {shlex.quote(str(made.python))} \"$0\" \"$@\"\n"
    program = script(made.folder / "bin" / "other", head)
    assert found(str(program)).interpreter == (str(made.python),)


def test_a_file_of_the_last_moments_is_looked_into_again_because_its_next_change_may_have_the_same_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script(tmp_path / "program", "#!/bin/sh\necho 1\n")
    program = found(str(path), python=False)
    assert not unchanged(identify(program, None).seen)
    monkeypatch.setattr(programs, "_GRANULARITY_S", 0.0)
    assert unchanged(identify(program, None).seen), "once it is old enough"


def test_the_shared_libraries_that_a_program_brings_along_belong_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_GRANULARITY_S", 0.0)
    path = script(tmp_path / "real" / "bin" / "llama-server", "not really\n")
    link = tmp_path / "llama-server"
    link.symlink_to(path)
    beside, named, other = (
        path.parent / "libggml.so.0",
        tmp_path / "real" / "lib" / "libllama-common.so",
        tmp_path / "real" / "lib" / "libz.so.1",
    )
    named.parent.mkdir()
    program = found(str(link), python=False)
    known = {identify(program, None).digest}
    for file in (beside, named, beside.with_name("libserver.dylib")):
        for content in ("one", "three"):
            before = identify(program, None)
            file.write_text(content)
            now = identify(program, None)
            assert now.digest not in known, f"{file}: {content}"
            assert unchanged(now.seen)
            assert content == "one" or not unchanged(before.seen)
            known.add(now.digest)
    before = identify(program, None)
    for file in (other, path.parent / "README.so.txt", named.with_name("libllamas.so")):
        file.write_text("x")
    beside.chmod(0o600)
    assert identify(program, None).digest == before.digest
    beside.unlink()
    assert not unchanged(before.seen)
    assert identify(program, None).digest not in known
