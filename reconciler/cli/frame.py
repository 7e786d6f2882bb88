"""What every command has in common: the exit codes under its help, where the daemon is, and loading a command only when it is called."""

from __future__ import annotations

import difflib
import importlib
import keyword
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reconciler.cli.failure import MEANINGS

CONTEXT: Mapping[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of every click context."""

_NAME = re.compile(r"[\w./-]{1,40}")
"""A word that a message may repeat."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(slots=True)
class Session:
    """What the global options said; one per run of the command line."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    server: str | None = None
    """``--server``; see :meth:`named_server`."""
    state_dir: Path | None = None

    def named_server(self) -> str | None:
        """The URL that somebody named, by flag or by variable; None when the local daemon is meant."""
        return self.server or self.environ.get("LLAMACTL_SERVER") or None

    def folder(self) -> Path:
        """The state folder that the local daemon uses."""
        from reconciler.host.store import state_dir

        return state_dir(self.state_dir, self.environ)


if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
else:
    _Seconds = click.ParamType  # older releases of click have no generic one


class Command(click.Command):
    """A command whose help ends with the exit codes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The exit codes, below whatever else the command says at its end."""
        super().format_epilog(ctx, formatter)
        write_codes(formatter)


def write_codes(formatter: click.HelpFormatter) -> None:
    """The table of exit codes."""
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(int(code)), meaning) for code, meaning in MEANINGS])


class LazyGroup(click.Group):
    """A group that knows its commands as ``name -> (module, one line)`` and imports a module only to run its command."""

    def __init__(self, *args: Any, table: Sequence[tuple[str, Mapping[str, tuple[str, str]]]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = table
        self.known = {name: entry for _, commands in table for name, entry in commands.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return list(self.known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for a name that is not one."""
        if cmd_name not in self.known:
            return None
        module = importlib.import_module(self.known[cmd_name][0])
        command = getattr(module, f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; a usage error with the nearest name otherwise."""
        if args[0] not in self.known and not args[0].startswith("-"):
            name, *more = args[0].split(None, 1) or [""]
            near = difflib.get_close_matches(name, self.known, n=1)
            cure = f"try `llamactl {near[0]}`" if near else "see `llamactl --help`"
            if more:  # a whole command line, which may hold a secret
                cure = "to read a server's command line, write `llamactl parse` before it"
            said = repr(name) if _NAME.fullmatch(name) else "of this name"
            raise click.UsageError(f"there is no command {said}; {cure}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section, from the table, without importing any."""
        for title, commands in self.sections:
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in commands.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The exit codes."""
        write_codes(formatter)


def session_of(ctx: click.Context) -> Session:
    """The session of this run."""
    session = ctx.find_root().obj
    assert isinstance(session, Session)
    return session


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        setattr(session_of(ctx), parameter.name, value)


def daemon_options(function: Function) -> Function:
    """``--server`` and ``--state-dir`` after the command too; they end in the :class:`Session`, not in the arguments."""
    for decorate in (state_dir_option(), server_option()):
        function = decorate(function)
    return function


def server_option() -> Callable[[Function], Function]:
    """``--server URL``."""
    return click.option(
        "--server",
        metavar="URL",
        expose_value=False,
        callback=_keep,
        help="Daemon to talk to, http:// or https:// [LLAMACTL_SERVER; default: the one running here].",
    )


def state_dir_option() -> Callable[[Function], Function]:
    """``--state-dir DIR``."""
    return click.option(
        "--state-dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_keep,
        help="Where the daemon of this host keeps its state [LLAMACTL_STATE_DIR].",
    )


def file_option(help_text: str) -> Callable[[Function], Function]:
    """``-f FILE``."""
    return click.option(
        "-f", "--file", "file", metavar="FILE", type=click.Path(path_type=Path), default=None, help=help_text
    )


def output_option(*forms: str) -> Callable[[Function], Function]:
    """``-o FORM``; the first is the default."""
    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(forms),
        default=forms[0],
        show_default=True,
        help="Form of what is printed.",
    )


class Duration(_Seconds):
    """Seconds, written with a unit as in the file: ``90s``, ``10m``, ``1h30m``."""

    name = "duration"
    _whole = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
    _part = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
    _seconds: Mapping[str, float] = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; a usage error for anything without a unit."""
        if isinstance(value, float):
            return value
        text = str(value)
        if not self._whole.fullmatch(text):
            self.fail(f"{text!r} is not a duration; write it as 90s, 10m or 1h30m", param, ctx)
        return sum(float(number) * self._seconds[unit] for number, unit in self._part.findall(text))
