"""How waiting is shown on stderr: a line for each change of phase, or bars that move where a person watches."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from reconciler.cli.terminal import colored, is_terminal, note, plain

if TYPE_CHECKING:
    from rich.progress import TaskID


class Reporter(Protocol):
    """Told about each instance that is waited for, again and again; used as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, name: str, text: str, *, done: bool) -> None:
        """Where the instance stands."""

    def say(self, text: str) -> None:
        """Something that belongs to no instance."""


class Lines:
    """Plain lines; only what is new is printed."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, name: str, text: str, *, done: bool) -> None:
        """One line when the text is another one than before."""
        del done
        if self._last.get(name) != text:
            self._last[name] = text
            note(f"{name}: {text}")

    def say(self, text: str) -> None:
        """One line."""
        note(text)


class Bars:
    """One row per instance with a spinner and the time it took."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        utf8 = (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"
        self._bars = Progress(
            SpinnerColumn("dots" if utf8 else "line", finished_text="✓" if utf8 else "+"),
            TextColumn("{task.fields[label]}", markup=False),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True, no_color=not colored(sys.stderr), highlight=False, markup=False),
        )
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, name: str, text: str, *, done: bool) -> None:
        """Move the row of the instance."""
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._bars.add_task(plain(text), total=1, label=name)
        self._bars.update(row, description=plain(text), completed=1 if done else 0)

    def say(self, text: str) -> None:
        """A line above the rows."""
        self._bars.console.print(plain(text), markup=False)


def reporter() -> Reporter:
    """The one that fits stderr."""
    return Bars() if is_terminal(sys.stderr) else Lines()
