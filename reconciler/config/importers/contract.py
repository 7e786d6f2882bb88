"""What every importer is given and gives back: text in, drafts of instances and a list of what was lost out. Pure data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.core.options import ParsedCommand
from reconciler.core.spec import OptionValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Something of the other tool's file that our file does not say, or says otherwise."""

    what: str
    """The setting as that file names it: ``models.qwen.ttl``."""
    why: str
    cure: str | None = None
    line: int | None = None
    """1-based, in the file that was imported."""
    column: int | None = None
    file: str | None = None
    """Only when it is another file than the one that was imported: one of a folder, an environment file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One instance, not checked yet."""

    name: str
    """As the other file has it; it is made a valid and unique name when the drafts become a file."""
    body: Mapping[str, OptionValue]
    line: int | None = None
    file: str | None = None
    """As in :class:`Lost`."""
    where: str | None = None
    """Its path in the other file (``models.qwen``), below which the losses about it stand: they go when the instance cannot stay."""
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)
    """Lines of its settings by their path in ``body``, where they are known; words of ``extra_args`` by the word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A whole file, understood."""

    drafts: tuple[Draft, ...]
    lost: tuple[Lost, ...] = ()
    sections: Mapping[str, Mapping[str, OptionValue]] = field(default_factory=dict)
    """Settings beside ``instances``: ``{"server": {"port": 8080}}``."""
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)
    """Lines of what is in ``sections``, by its path."""


Understand = Callable[[str], ParsedCommand]
"""A command line in, what it means out, whichever server it starts; Rejected with line and column when no backend knows it."""

Unknown = Callable[[str], ParsedCommand]
"""The same for a command of no known server: it becomes an instance that runs exactly these words."""


ELSEWHERE = "external"
"""The ``backend_type`` of a server that somebody else runs: what other tools call a peer or a remote."""


class Importer(Protocol):
    """One kind of foreign file. The module ``importers/X.py`` offers one as ``IMPORTER``."""

    kind: str
    """How the command line names it: ``llama-swap``."""
    help: str
    """One line for ``llamactl import --help``."""
    needs_file: bool
    """False where there is nothing to read (running processes): ``data`` is empty then."""

    def read(self, data: bytes, *, name: str, understand: Understand, unknown: Unknown) -> Imported:
        """The file's instances and everything that is lost. Rejected, with ``name``, line and column, for what is no such file.

        An importer with a ``pattern`` (``*.json``) takes folders too: it is given each file of that pattern by itself.
        ``name`` is the file as the user named it, ``<stdin>`` for standard input; ``data`` is 1 MiB at most.
        """
        ...
