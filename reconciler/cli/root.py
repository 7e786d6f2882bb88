"""The ``llamactl`` command itself: its global options, the list of its commands, and how every run of it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import click

from reconciler import __version__
from reconciler.cli.failure import Code, Failure
from reconciler.cli.frame import CONTEXT, LazyGroup, Session, server_option, state_dir_option
from reconciler.cli.terminal import err

COMPLETION = "_LLAMACTL_COMPLETE"
"""Set by the completion script that click writes for bash, zsh and fish."""
_ROOM = "reconciler.cli"
SECTIONS: Sequence[tuple[str, Mapping[str, tuple[str, str]]]] = (
    (
        "Daemon",
        {
            "up": (f"{_ROOM}.daemon", "Run the daemon: watch the file, reconcile, serve HTTP."),
            "down": (f"{_ROOM}.daemon", "Stop every instance and the daemon."),
            "demo": (f"{_ROOM}.demo", "Show the whole thing on the built-in simulator."),
        },
    ),
    (
        "File",
        {
            "validate": (f"{_ROOM}.files", "Check files without a daemon."),
            "plan": (f"{_ROOM}.deploy", "Show what would change and why."),
            "apply": (f"{_ROOM}.deploy", "Hand a file to the daemon and wait until it is so."),
            "parse": (f"{_ROOM}.parsing", "Turn a server's command line into an instance of the file."),
            "import": (f"{_ROOM}.importing", "Turn another tool's file into a file of llamactl's."),
            "schema": (f"{_ROOM}.files", "Print the JSON schema of the file."),
            "vocabulary": (f"{_ROOM}.vocabulary", "Read an installed server's own options."),
        },
    ),
    (
        "Instances",
        {
            "status": (f"{_ROOM}.look", "Show what runs."),
            "wait": (f"{_ROOM}.waiting", "Wait until an instance is ready, stopped or deleted."),
            "logs": (f"{_ROOM}.streams", "Print what an instance wrote."),
            "events": (f"{_ROOM}.streams", "Print what happened."),
            "start": (f"{_ROOM}.act", "Set `enabled: true` in the file."),
            "stop": (f"{_ROOM}.act", "Set `enabled: false` in the file."),
            "restart": (f"{_ROOM}.act", "Replace the running processes of an instance."),
            "chat": (f"{_ROOM}.talk", "Ask an instance something; the reply is streamed."),
        },
    ),
    ("Testing", {"simulate": (f"{_ROOM}.simulate", "Act like vllm, llama_cpp or mlx_lm, without model or GPU.")}),
)
"""Every command: where it lives and its one line (a test compares it with the command's own)."""


@click.group(
    cls=LazyGroup,
    table=SECTIONS,
    context_settings=dict(CONTEXT),
    invoke_without_command=True,
    help="One YAML file that runs your LLM servers.\n\n"
    "Keys are read from LLAMACTL_MANAGEMENT_KEY and LLAMACTL_INFERENCE_KEY; the daemon of this host needs none.",
)
@server_option()
@state_dir_option()
@click.version_option(__version__, message="llamactl %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Nothing of its own to do."""
    if ctx.invoked_subcommand is None:
        err(ctx.get_help())
        ctx.exit(Code.USAGE)


def run(argv: Sequence[str] | None = None) -> int:
    """One run: exit code out, nothing raised but what is a bug of ours (and that as one line, by the hook)."""
    sys.excepthook = report_bug
    tolerant_streams()
    session = Session()
    try:
        code = _guarded(lambda: _invoke(argv, session))
        # A Ctrl-C that falls into an exec of a string (dataclasses do that at import) leaves a mark by which CPython
        # ends the process by SIGINT even though it was caught; the next such exec takes the mark away.
        exec("")
        return code or _flush()
    except BrokenPipeError:
        return _reader_gone()


def _invoke(argv: Sequence[str] | None, session: Session) -> int:
    """As click's own ``main`` does it, which however takes a reader that left for a failure of its own."""
    if instruction := session.environ.get(COMPLETION):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "llamactl", COMPLETION, instruction)
    try:
        with cli.make_context("llamactl", list(sys.argv[1:] if argv is None else argv), obj=session) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    return Code.DONE


def _guarded(action: Callable[[], int]) -> int:
    """Every way a command ends that has a name, as its exit code."""
    from reconciler.core.errors import LlamactlError, Rejected

    try:
        return action()
    except Failure as failure:
        complain(failure.message)
        return failure.code
    except Rejected as rejected:
        from reconciler.cli.problems import code_of, show

        show(rejected.problems)
        return code_of(rejected.problems)
    except click.UsageError as error:
        error.show()
        return Code.USAGE
    except click.FileError as error:
        error.show()
        return Code.NO_INPUT
    except click.ClickException as error:
        error.show()
        return Code.FAILED
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return Code.INTERRUPTED
    except LlamactlError as error:
        complain(str(error))
        return Code.FAILED
    except BrokenPipeError:
        raise
    except UnicodeDecodeError as error:
        complain(f"cannot read the text: it is not UTF-8 ({error.reason} at byte {error.start})")
        return Code.INVALID
    except OSError as error:
        if os.environ.get("LLAMACTL_DEBUG"):
            raise
        place = f" {error.filename}" if error.filename is not None else " the output"
        complain(f"cannot use{place}: {error.strerror or error}")
        return Code.FAILED


def complain(message: str) -> None:
    """A message about a failure, on stderr."""
    err(f"llamactl: {message}")


def tolerant_streams() -> None:
    """Never fail over a character that the terminal cannot show: it is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _flush() -> int:
    """Write out what is buffered; a full disk is a failure, a reader that left is BrokenPipeError."""
    if sys.stdout is None:
        return Code.DONE
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence_stdout()
        complain(f"cannot write the output: {error.strerror or error}")
        return Code.FAILED
    return Code.DONE


def _silence_stdout() -> None:
    """What is still buffered goes nowhere, so that the interpreter does not stumble over it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _reader_gone() -> int:
    _silence_stdout()
    return Code.BROKEN_PIPE


def report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Exception hook: one line for people, the traceback for those who ask for it. The interpreter exits with 1."""
    if issubclass(kind, KeyboardInterrupt):
        os._exit(Code.INTERRUPTED)
    if os.environ.get("LLAMACTL_DEBUG"):
        sys.__excepthook__(kind, error, trace)
        return
    where = ""
    while trace is not None:
        where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    text = " ".join(str(error).split())[:300]
    sys.stderr.write(
        f"llamactl: internal error: {kind.__name__}: {text}{where}; run with LLAMACTL_DEBUG=1 for the traceback\n"
    )


def end_by_signals(*signals: signal.Signals) -> None:
    """Let these end the command as Ctrl-C does, so that what it started is cleaned up."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for each in signals:
        signal.signal(each, interrupt)
