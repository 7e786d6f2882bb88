"""Imports a text as the command line does, with the real backends and the real loader, and answers questions about the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler import app
from reconciler.config.importers.contract import Lost
from reconciler.config.importers.write import Written

SECRET = "hf_Zq8vT1mKpLw3xYb7NcRd5sGh"
"""Looks as a token of the hub does; must never be said."""


@dataclass(frozen=True)
class Result:
    """One import."""

    written: Written

    @property
    def instances(self) -> Mapping[str, Mapping[str, Any]]:
        """By name."""
        return self.written.instances

    def losses(self, part: str) -> tuple[Lost, ...]:
        """Those that name this."""
        return tuple(lost for lost in self.written.lost if part in lost.what or part in lost.why)

    def loss(self, part: str) -> Lost:
        """The only one that names this."""
        found = self.losses(part)
        assert len(found) == 1, f"{part!r} among {[f'{lost.what}: {lost.why}' for lost in self.written.lost]}"
        return found[0]

    @property
    def everything(self) -> str:
        """All that is printed, to look for secrets in."""
        told = [f"{lost.what} {lost.why} {lost.cure}" for lost in self.written.lost]
        return "\n".join([self.written.text, *told])


def imported(kind: str, text: str, *, name: str, environ: Mapping[str, str] | None = None) -> Result:
    """The result of an import; ``name`` is the file's."""
    return Result(app.import_instances(kind, {name: text.encode()}, environ or {"HOME": "/nowhere"}))


def line_of(text: str, part: str) -> int:
    """The 1-based line in which this first stands."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def loads(result: Result, environ: Mapping[str, str], folder: Path) -> None:
    """The printed file is accepted by the loader, as a file."""
    file = folder / "llamactl.yaml"
    file.write_text(result.written.text)
    app.check(file, {"LLAMACTL_STATE_DIR": str(folder / "state"), **environ})
