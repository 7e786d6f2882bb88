"""Asks an installed program for its options: one run or two, in a session of their own, with bounds on time and output.

What the answer means is the backend's matter. A run that is over, overdue or interrupted leaves no process behind: whatever of it left
the session is found by a mark in its environment. What empties its own environment there, or becomes another user's, is not found.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from reconciler.core.errors import Problem, Rejected
from reconciler.core.options import RUNS_APART, OptionSource
from reconciler.core.printed import shown as printed
from reconciler.host.carriers import SCAN_PAUSE_S, kill_carriers
from reconciler.host.clock import Clock, SystemClock
from reconciler.host.environment import harmless
from reconciler.host.programs import NOT_FOUND, Program

FAILED = "PROGRAM_FAILED"
"""Code of the problem that the program ended badly, or told too much."""
TIMED_OUT = "PROGRAM_TIMED_OUT"
"""Code of the problem that it did not end in time."""
MOST_OUTPUT = 8 * 1024 * 1024
"""Bytes of output; vLLM's options with their help are 0.4 MB."""
_TAIL_LINES = 8
_LONGEST_LINE = 16 * 1024
"""Characters of a line that are masked, of which the first 300 are shown."""
_LOOK_S = 0.1
"""How often it is looked whether the program ended while something of it holds its output open, seconds."""
_LOOK_SOON_S = 0.01
"""The same once it closed its output, seconds."""
_LINGER_S = 1.0
"""How long its output is still read after its end, if somebody outside of its group holds it open, seconds."""
_MARK = "LLAMACTL_READING"
"""Variable that everything has which a run starts, with a value of the run's own."""
_CLEAN_SCANS = 2
"""Scans in a row that must find nothing left of a run."""
_MOST_SCANS = 50
"""Scans after which a program that starts anew faster than it is killed is left alone."""
_FIND_SITE = "import importlib.metadata as m, sys; print(m.distribution(sys.argv[1]).locate_file(''))"
_FIND_SITE_S = 30.0


def ask(
    program: Program,
    source: OptionSource,
    environ: Mapping[str, str],
    *,
    declared: Mapping[str, str | None] | None = None,
    clock: Clock | None = None,
) -> str:
    """What the program printed about its options, its errors behind its output; Rejected with how it ended and its last lines.

    ``environ`` is the daemon's; its own variables and what is named like a secret are left out. ``declared`` is added (None unsets).
    """
    environment = harmless(environ)
    for name, value in {**(declared or {}), **source.environment}.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    if source.script is not None:
        runs = [((*program.interpreter, "-c", source.script), f"{shlex.join(program.interpreter)} -c SCRIPT")]
    else:
        first = (*program.command, *source.arguments)
        runs = [(first, shlex.join(first))]
    if source.version_arguments:
        second = (*program.command, *source.version_arguments)
        runs.append((second, shlex.join(second)))
    clock = clock if clock is not None else SystemClock()
    deadline = clock.monotonic() + source.timeout
    told = [_run(argv, shown, environment, deadline, source.timeout, clock) for argv, shown in runs]
    return RUNS_APART.join(told)


def site_of(
    program: Program, distribution: str, environ: Mapping[str, str], *, clock: Clock | None = None
) -> str | None:
    """The folder that the interpreter itself finds the distribution in; None when it finds none."""
    argv = (*program.interpreter, "-c", _FIND_SITE, distribution)
    clock = clock if clock is not None else SystemClock()
    deadline = clock.monotonic() + _FIND_SITE_S
    try:
        told = _run(argv, shlex.join(program.interpreter), harmless(environ), deadline, _FIND_SITE_S, clock)
    except Rejected:
        return None
    folder = told.split("\n", 1)[0].strip()
    return folder if os.path.isdir(folder) else None


def _run(
    argv: Sequence[str], shown: str, environment: Mapping[str, str], deadline: float, timeout: float, clock: Clock
) -> str:
    """One run, in an empty folder (a module of the current one must not be taken for the program's)."""
    mark = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="llamactl-") as empty:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=empty,
                env={**environment, _MARK: mark},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise Rejected(Problem(message=f"cannot run {shown}: {why}", code=NOT_FOUND)) from None
        try:
            output, trouble = _collect(process, deadline, clock)
        finally:
            _end(process, mark)
    texts = [data.decode("utf-8", errors="replace") for data in output]
    if trouble == TIMED_OUT:
        hint = "try again: a first import with cold files takes longest"
        message = f"cannot read options: {shown} did not end within {timeout:g} s{_tail(texts)}"
        raise Rejected(Problem(message=message, hint=hint, code=TIMED_OUT))
    if trouble is not None or process.returncode != 0:
        message = f"cannot read options: {shown} {trouble or _ending(process.returncode)}{_tail(texts)}"
        hint = "see that it works by itself: run the same command in a shell"
        raise Rejected(Problem(message=message, hint=hint, code=FAILED))
    return "".join(texts)


def _collect(process: subprocess.Popen[bytes], deadline: float, clock: Clock) -> tuple[tuple[bytes, bytes], str | None]:
    """Both outputs until their ends, and what went wrong: :data:`TIMED_OUT`, or too much output in words."""
    assert process.stdout is not None
    assert process.stderr is not None
    output = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    trouble = None
    until = deadline
    ended = False
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            selector.register(stream, selectors.EVENT_READ)
        while trouble is None:
            if not ended and _has_ended(process):
                ended = True
                _kill(process)  # whatever it left would hold the output open
                until = min(deadline, clock.monotonic() + _LINGER_S)
            left = until - clock.monotonic()
            if ended and (left <= 0 or not selector.get_map()):
                break
            if left <= 0:
                trouble = TIMED_OUT
            for key, _ in selector.select(min(max(left, 0.0), _LOOK_S if selector.get_map() else _LOOK_SOON_S)):
                data = os.read(key.fd, 65536)
                output[key.fd] += data
                if not data:
                    selector.unregister(key.fileobj)
            if sum(map(len, output.values())) > MOST_OUTPUT:
                trouble = f"printed more than {MOST_OUTPUT // (1024 * 1024)} MiB"
    out, err = output.values()
    return (bytes(out), bytes(err)), trouble


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it ended; where the system can, without collecting it, so that its process group's number stays its own."""
    if sys.platform == "darwin":
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill whatever is left of the session's group and of what left it, and close the pipes."""
    _kill(process)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait()
    clean = 0
    for _ in range(_MOST_SCANS):
        clean = 0 if kill_carriers(_MARK, mark) else clean + 1
        if clean == _CLEAN_SCANS:
            break
        select.select((), (), (), SCAN_PAUSE_S)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says so of a group of zombies
        os.killpg(process.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _tail(texts: Sequence[str]) -> str:
    """The last lines, of its errors where there are any; without secrets and control characters."""
    text = next((text for text in reversed(texts) if text.strip()), "")
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()][-_TAIL_LINES:]
    return "".join(f"\n    | {' ' * _indent(line)}{printed(line[:_LONGEST_LINE])[:300]}" for line in lines)


def _indent(line: str) -> int:
    return min(len(line) - len(line.lstrip(" ")), 20)
