"""A server's options as the Go program llamactl keeps them, read as the command line that it makes of them.

So an option that was removed becomes what took its place, by the one reading that knows; everything else stays as it is written, and
the loader is its judge.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.config.importers._carry import Ledger
from reconciler.config.importers.contract import Understand
from reconciler.core.errors import Rejected
from reconciler.core.options import ParsedCommand
from reconciler.core.spec import OptionValue


@dataclass(slots=True)
class _Gone:
    """An option of the file that is none of the server's today, and has a successor."""

    words: Sequence[str]
    what: str
    line: int
    parsed: ParsedCommand


@dataclass(slots=True)
class ServerOptions:
    """The options of one instance. ``command`` starts its server; None where nobody knows it."""

    understand: Understand
    command: str | None
    ledger: Ledger
    found: dict[str, OptionValue] = field(default_factory=dict)
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    extra: list[OptionValue] = field(default_factory=list)
    _gone: list[_Gone] = field(default_factory=list)
    _base: Mapping[str, OptionValue] = field(init=False)
    """Options of the bare command."""

    def __post_init__(self) -> None:
        self._base = self.understand(self.command).backend_options if self.command is not None else {}

    def option(self, key: str, value: OptionValue, written: OptionValue, what: str, line: int) -> None:
        """One option: ``value`` bare, ``written`` as our file writes it."""
        self.lines["backend_options", key] = line
        if self.command is not None and value in (False, 0, "", [], None):
            why = "that program gives its server nothing for false, 0 or an empty text, and so it is here"
            self.ledger.add(what, why, "write it on the instance if it is meant", line=line)
            return
        words = _words(f"--{key.replace('_', '-')}", value)
        parsed = self._read(words)
        if parsed is None or parsed.extra_args:
            self.found[key] = written
            return
        fresh = self._fresh(parsed)
        if not fresh and not parsed.warnings:
            self.found[key] = written
        elif parsed.warnings and fresh and key not in fresh:
            self._gone.append(_Gone(words, what, line, parsed))
        else:
            self.ledger.warnings(what, parsed, line=line)
            self.found.update(fresh)
            self.lines.update({("backend_options", name): line for name in fresh})

    def words(self, words: Sequence[str], written: Sequence[str], what: str, line: int) -> None:
        """A flag with its values from ``extra_args``: kept as it is, unless the server has it no more."""
        self.lines["extra_args", written[0].partition("=")[0]] = line
        parsed = self._read(words)
        if parsed is None or parsed.extra_args or not parsed.warnings:
            self.extra += written
        elif self._fresh(parsed):
            self._gone.append(_Gone(words, what, line, parsed))
        else:
            self.ledger.warnings(what, parsed, line=line)

    def settle(self) -> None:
        """Put in what took the place of removed options, read together: some of them became one."""
        together = self._read([word for gone in self._gone for word in gone.words])
        for gone in self._gone:
            one = gone.parsed if together is None else self._about(gone, together)
            self.ledger.warnings(gone.what, one, line=gone.line)
            for name, value in self._fresh(gone.parsed if together is None else together).items():
                self.lines.setdefault(("backend_options", name), gone.line)
                self.found.setdefault(name, value)

    def _about(self, gone: _Gone, together: ParsedCommand) -> ParsedCommand:
        """The reading of all with those of its warnings that are about this one: it is the first that they name."""
        said = []
        for warning in together.warnings:
            flags = [word for word in warning.replace(";", " ").split() if word in {one.words[0] for one in self._gone}]
            if flags[:1] == [gone.words[0]]:
                said.append(warning)
        return replace(together, warnings=tuple(said)) if said else gone.parsed

    def _fresh(self, parsed: ParsedCommand) -> Mapping[str, OptionValue]:
        """What the words added to the bare command."""
        return {name: value for name, value in parsed.backend_options.items() if name not in self._base}

    def _read(self, words: Sequence[str]) -> ParsedCommand | None:
        """The command with these words; None where they cannot be read, or hold what is a variable to a shell."""
        if self.command is None or not words or any("${" in word for word in words):
            return None
        try:
            return self.understand(f"{self.command} {shlex.join(words)}")
        except Rejected:
            return None


def _words(flag: str, value: OptionValue) -> list[str]:
    """The option as words; empty for what has no such form."""
    match value:
        case True:
            return [flag]
        case str() | int() | float():
            return [flag, str(value)]
        case list() if all(isinstance(item, str) for item in value):
            return [word for item in value for word in (flag, str(item))]
        case _:
            return []
