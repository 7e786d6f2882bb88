"""What every command owes: its help with the exit codes, 64 for a wrong command line, a fast start, no traceback ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from reconciler.cli.failure import MEANINGS
from reconciler.cli.frame import CONTEXT
from reconciler.cli.root import SECTIONS
from reconciler.cli.root import cli as group
from tests.cli.conftest import Cli
from tests.cli.fake import FakeDaemon, Reply, instance, status

COMMANDS = [name for _, commands in SECTIONS for name in commands]
HEAVY = {"pydantic", "aiohttp", "ruamel", "jsonschema", "rich", "uvloop", "watchfiles", "msgspec", "psutil"}


def child(*argv: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """The command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "reconciler", *argv], capture_output=True, timeout=60, check=False, env=os.environ | more
    )


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_every_help_tells_the_exit_codes(cli: Cli, name: str | None) -> None:
    result = cli(*([name] if name else []), "--help")
    assert result.code == 0
    for code, meaning in MEANINGS:
        assert any(line.split()[:1] == [str(int(code))] and meaning in line for line in result.out.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_command_says(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    lines = {key: line for _, commands in SECTIONS for key, (_, line) in commands.items()}
    assert command.get_short_help_str(200) == lines[name]


@pytest.mark.parametrize(
    "argv",
    [
        ["no-such-command"],
        ["--no-such-option"],
        ["status", "--no-such-option"],
        ["status", "-o", "xml"],
        ["wait", "tiny"],
        ["wait", "tiny", "--for", "love"],
        ["wait", "tiny", "--for", "ready", "--timeout", "10"],
        ["apply", "surplus"],
        ["logs"],
        ["logs", "x", "--tail", "-1"],
        ["up", "--port", "99999"],
        ["parse"],
        ["chat", "tiny", ""],
        ["simulate"],
        ["status", "--server", "ftp://host"],
        ["status", "--server", "http://user:pass@host"],
        [],
    ],
)
def test_a_wrong_command_line_is_64_and_speaks_on_stderr(cli: Cli, argv: list[str]) -> None:
    result = cli(*argv)
    assert (result.code, result.out) == (64, "")
    assert result.err


def test_a_mistyped_command_is_told_the_nearest(cli: Cli) -> None:
    assert "try `llamactl status`" in cli("statsu").err


def test_global_options_count_before_and_after_the_command(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status())
    os.environ.pop("LLAMACTL_SERVER")
    assert cli("--server", daemon.url, "status").code == 0
    assert cli("status", "--server", daemon.url).code == 0
    assert cli("status").code == 69


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["status", "--help"], ["simulate", "vllm", "--version"]])
def test_help_and_version_import_nothing_heavy(argv: list[str]) -> None:
    program = (
        "import sys\nfrom reconciler.cli import main\ncode = main(sys.argv[1:])\n"
        "sys.stderr.write(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert not HEAVY & set(done.stderr.split())


def test_talking_to_a_daemon_imports_nothing_heavy(daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(instance("tiny")))
    program = (
        "import sys\nfrom reconciler.cli import main\ncode = main(['status'])\n"
        "sys.stderr.write(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "tiny" in done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_the_module_is_the_command(tmp_path: Path) -> None:
    assert child("--version").stdout.startswith(b"llamactl ")


def test_everything_after_the_kind_reaches_the_simulator() -> None:
    done = child("simulate", "vllm", "--help")
    assert done.returncode == 0
    assert b"--load-seconds" in done.stdout
    assert b"Exit codes" not in done.stdout
    refused = child("simulate", "vllm", "serve", "m", "--no-such-flag", "--load-seconds", "soon", "--", "-x")
    assert refused.returncode == 2
    assert b"--load-seconds" in refused.stderr


def test_a_reader_that_leaves_is_no_traceback(daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(*(instance(f"tiny-{number}") for number in range(3000))))
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "status"], stdout=writer, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    os.close(writer)
    assert os.read(reader, 10).startswith(b"NAME")
    os.close(reader)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_a_full_disk_is_named() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "reconciler", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_stdout_is_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m reconciler --version >&-"], capture_output=True, timeout=60, check=False
    )
    assert b"Traceback" not in done.stderr


def test_a_terminal_without_unicode_gets_escapes(daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(instance("tiny", next_action={"what": "wait", "why": "日本", "at": None})))
    done = child("status", "-o", "wide", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"\\u65e5" in done.stdout
    as_json = child("status", "-o", "json", PYTHONIOENCODING="ascii")
    assert json.loads(as_json.stdout)["instances"][0]["next_action"]["why"] == "日本"


def test_an_unexpected_exception_is_one_line_and_a_way_to_more() -> None:
    program = (
        "import sys\nfrom reconciler.cli import main, root\n"
        "root._invoke = lambda argv, session: 1 / 0\nsys.exit(main([]))"
    )
    for debug, lines in ((None, 1), ("1", 4)):
        more = {"LLAMACTL_DEBUG": debug} if debug else {}
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | more,
        )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) >= lines
        assert ("Traceback" in done.stderr) is (debug is not None)
        assert debug or ("internal error: ZeroDivisionError" in done.stderr and len(done.stderr.splitlines()) == 1)


def test_colour_is_for_terminals_alone(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(instance("tiny")))
    assert "\x1b" not in cli("status").out


def test_control_characters_of_others_do_not_reach_the_screen(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", status(instance("ti\x1b[31mny\nx")))
    result = cli("status")
    assert "\x1b" not in result.out
    assert len(result.out.splitlines()) == 2


def test_every_context_knows_both_spellings_of_help(cli: Cli) -> None:
    assert CONTEXT["help_option_names"] == ["-h", "--help"]
    assert cli("status", "-h").code == 0


def test_a_body_that_is_no_json_is_no_traceback(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.on("GET /api/v1/status", Reply(b"<html>hello</html>", type="text/html"))
    result = cli("status")
    assert result.code == 69
    assert "not JSON" in result.err


def test_a_command_line_in_the_place_of_a_command_is_not_repeated(cli: Cli) -> None:
    result = cli("vllm serve m/x --api-key q8Zk2mPw")
    assert result.code == 64
    assert "q8Zk2mPw" not in result.out + result.err
    assert "there is no command 'vllm'" in result.err
    assert "llamactl parse" in result.err


def test_a_kind_that_is_none_is_not_repeated(cli: Cli) -> None:
    result = cli("parse", "--backend", "q8Zk2mPw", "vllm serve m/x")
    assert result.code != 0
    assert "q8Zk2mPw" not in result.out + result.err
    assert "vllm" in result.err
