"""What the streams are: a terminal or not, in colour or not; and text made safe for them."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click

_PHASE_COLORS = {
    "ready": "green",
    "starting": "yellow",
    "pending": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "unready": "red",
    "backoff": "red",
    "failed": "red",
    "unknown": "magenta",
    "sleeping": "blue",
}


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person watches: a terminal that can move its cursor, and not a CI job that pretends to have one."""
    return (
        stream is not None
        and not stream.closed
        and stream.isatty()
        and os.environ.get("TERM") != "dumb"
        and not os.environ.get("CI")
    )


def colored(stream: TextIO | None) -> bool:
    """Whether colour is wanted there (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def unicode_output() -> bool:
    """Whether stdout can show every character."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"


def plain(text: str) -> str:
    """Without control characters other than newline and tab: text from elsewhere must not steer the terminal."""
    return "".join(
        character if character in "\n\t" or not (ord(character) < 32 or 127 <= ord(character) < 160) else "?"
        for character in text
    )


def out(text: str = "", *, end: str = "\n") -> None:
    """Data, on stdout. (click.echo takes an ASCII stream for a mistake and writes UTF-8 to it.)"""
    _write(sys.stdout, text + end)


def err(text: str = "", *, end: str = "\n") -> None:
    """A message, on stderr, at once."""
    _write(sys.stderr, text + end)
    if sys.stderr is not None:
        sys.stderr.flush()


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:  # closed by whoever started us
        stream.write(text)


def note(message: str) -> None:
    """Progress or advice, on stderr."""
    err(plain(message))


def phase_style(phase: str, text: str, *, color: bool) -> str:
    """The text in the colour of the phase."""
    shade = _PHASE_COLORS.get(phase) if color else None
    return click.style(text, fg=shade) if shade else text
