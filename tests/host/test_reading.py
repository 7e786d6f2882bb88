"""A program that is asked for its options is bounded in time and output, learns no secret, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from reconciler.core.errors import Problem, Rejected
from reconciler.core.options import RUNS_APART, OptionSource
from reconciler.host import reading
from reconciler.host.programs import NOT_FOUND, Program, find
from tests.host.installs import Environment, script

PATH = {"PATH": os.defpath}


def program(path: Path) -> Program:
    """A program that runs by itself."""
    return find([str(path)], environ=PATH, directory="/", python=False)


def ask(text: str, folder: Path, *, environ: dict[str, str] | None = None, timeout: float = 20.0) -> str:
    """What a shell script tells when it is asked with ``--help``."""
    path = script(folder / "program", f"#!/bin/sh\n{text}\n")
    return reading.ask(program(path), OptionSource(arguments=("--help",), timeout=timeout), {**PATH, **(environ or {})})


def failed(text: str, folder: Path, *, timeout: float = 20.0) -> Problem:
    """Why such a script could not be read."""
    with pytest.raises(Rejected) as caught:
        ask(text, folder, timeout=timeout)
    return caught.value.problems[0]


def test_errors_stand_behind_the_output_and_a_second_run_behind_both(tmp_path: Path) -> None:
    path = script(tmp_path / "program", '#!/bin/sh\necho "err $1" >&2\necho "out $1"\n')
    source = OptionSource(arguments=("--help",), version_arguments=("--version",))
    told = reading.ask(program(path), source, PATH)
    assert told.split(RUNS_APART) == ["out --help\nerr --help\n", "out --version\nerr --version\n"]


def test_a_script_is_run_by_the_programs_own_python(tmp_path: Path) -> None:
    made = Environment(tmp_path / "venv")
    source = OptionSource(script="import sys, os; print(sys.executable, os.listdir())")
    found = find([str(made.program)], environ=PATH, directory="/", python=True)
    assert reading.ask(found, source, PATH) == f"{made.python} []\n", (
        "in an empty folder, where no module is in the way"
    )


def test_it_learns_nothing_of_the_daemons_and_no_secret(tmp_path: Path) -> None:
    environ = {
        "LLAMACTL_SERVER": "x",
        "NOTIFY_SOCKET": "/run/x",
        "HF_TOKEN": "hf",
        "HOME": "/root",
        "OPENAI_API_KEY": "sk",
    }
    told = ask("env", tmp_path, environ=environ)
    names = {line.partition("=")[0] for line in told.splitlines()}
    assert "HOME" in names
    assert not names & {"LLAMACTL_SERVER", "NOTIFY_SOCKET", "HF_TOKEN", "OPENAI_API_KEY"}


def test_declared_variables_and_those_of_the_reader_are_set(tmp_path: Path) -> None:
    path = script(tmp_path / "program", "#!/bin/sh\nenv\n")
    source = OptionSource(environment={"CUDA_VISIBLE_DEVICES": ""})
    told = reading.ask(program(path), source, {**PATH, "GONE": "1"}, declared={"LD_LIBRARY_PATH": "/opt", "GONE": None})
    lines = told.splitlines()
    assert {"CUDA_VISIBLE_DEVICES=", "LD_LIBRARY_PATH=/opt"} <= set(lines)
    assert not any(line.startswith("GONE") for line in lines)


def test_its_stdin_is_empty(tmp_path: Path) -> None:
    assert ask("cat; echo end", tmp_path) == "end\n"


def test_a_bad_end_says_how_and_shows_the_last_lines_without_secrets(tmp_path: Path) -> None:
    problem = failed("echo fine; echo 'boom api_key=abc' >&2; exit 3", tmp_path)
    assert problem.code == reading.FAILED
    assert problem.message.startswith(
        f"cannot read options: {tmp_path}/program --help ended with 3\n    | boom api_key="
    )
    assert "abc" not in problem.message
    assert "SIGSEGV" in failed("kill -SEGV $$", tmp_path).message


def test_no_secret_is_shown_whatever_stands_around_it_and_colours_go(tmp_path: Path) -> None:
    lines = [
        "token hf_abcdefABCDEF123",
        "key is sk-proj-0123456789",
        "Bearer xyzzy42",
        r"\033[31mpassword\033[0m: swordfish9",
    ]
    said = failed("".join(f"printf '%b\\n' '  {line}' >&2\n" for line in lines) + "exit 1", tmp_path).message
    assert not [word for word in ("hf_abc", "sk-proj", "xyzzy", "swordfish", "\x1b") if word in said]
    assert "\n    |   token ***\n" in said, "and what is no secret stays, with its indent"


def test_what_does_not_end_is_killed_with_everything_it_started(tmp_path: Path) -> None:
    problem = failed(f"sleep 600 & echo $! > {tmp_path}/pid; wait", tmp_path, timeout=0.5)
    assert problem.code == reading.TIMED_OUT
    assert "did not end within 0.5 s" in problem.message
    pid = int((tmp_path / "pid").read_text())
    assert _gone(pid)


def test_what_left_the_session_is_killed_too(tmp_path: Path) -> None:
    inner = f"sleep 600 & echo $! > {tmp_path}/one; echo $$ > {tmp_path}/two.new; mv {tmp_path}/two.new {tmp_path}/two; wait"
    text = f"setsid sh -c '{inner}' >&- 2>&- &\nuntil [ -e {tmp_path}/two ]; do sleep 0.01; done\necho told"
    assert ask(text, tmp_path) == "told\n"
    for name in ("one", "two"):
        assert _gone(int((tmp_path / name).read_text()))


def test_what_closes_its_output_and_goes_on_is_overdue_too(tmp_path: Path) -> None:
    assert failed("exec >&- 2>&-; sleep 600", tmp_path, timeout=0.5).code == reading.TIMED_OUT


def test_a_child_that_outlives_the_program_does_not_hold_the_reading_up(tmp_path: Path) -> None:
    assert ask(f"sleep 600 & echo $! > {tmp_path}/pid; echo told", tmp_path) == "told\n"
    assert _gone(int((tmp_path / "pid").read_text()))


def test_endless_output_is_cut_off(tmp_path: Path) -> None:
    problem = failed("yes", tmp_path)
    assert problem.code == reading.FAILED
    assert "more than 8 MiB" in problem.message


def test_a_program_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    broken = script(tmp_path / "broken", "#!/no/such/interpreter\n")
    with pytest.raises(Rejected) as caught:
        reading.ask(program(broken), OptionSource(), PATH)
    assert caught.value.problems[0].code == NOT_FOUND


def test_an_interrupted_reading_leaves_no_process(tmp_path: Path) -> None:
    path = script(
        tmp_path / "program",
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 600\n",
    )
    code = (
        "from reconciler.host import programs, reading\nfrom reconciler.core.options import OptionSource\n"
        f"p = programs.find([{str(path)!r}], environ={{}}, directory='/', python=False)\nreading.ask(p, OptionSource(), {{}})"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            assert asking.poll() is None
            time.sleep(0.02)
        asking.send_signal(signal.SIGINT)
        asking.wait(20)
    finally:
        asking.kill()
        asking.wait()
    assert _gone(int((tmp_path / "pid").read_text()))


def test_the_interpreter_says_where_a_distribution_is(tmp_path: Path) -> None:
    made = Environment(tmp_path / "venv")
    elsewhere = tmp_path / "elsewhere"
    (made.site / "served-1.0.dist-info").rename(elsewhere.with_name("served-1.0.dist-info"))
    elsewhere.mkdir()
    elsewhere.with_name("served-1.0.dist-info").rename(elsewhere / "served-1.0.dist-info")
    found = find([str(made.program)], environ=PATH, directory="/", python=True)
    assert reading.site_of(found, "served", {**PATH, "PYTHONPATH": str(elsewhere)}) == str(elsewhere)
    assert reading.site_of(found, "served", PATH) is None


def _gone(pid: int) -> bool:
    """Whether a killed process is gone within a moment; a zombie is, its new parent only has to collect it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False
