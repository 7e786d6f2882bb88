"""What passes between a backend and those who ask it about options: problems, tables of options, understood commands. Data only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from reconciler.core.spec import OptionValue


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionProblem:
    """A problem inside one instance, before the file and its positions are known."""

    path: tuple[str | int, ...]
    """Below the instance: ``("backend_options", "tensor-parallel-size")``, with the key as the user wrote it."""
    message: str
    hint: str | None = None
    warning: bool = False
    on_key: bool = False
    """True points at the key (unknown name), False at the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCommand:
    """A pasted command line, understood."""

    backend_type: str
    backend_options: Mapping[str, OptionValue]
    environment: Mapping[str, str]
    extra_args: tuple[str, ...]
    executable: str | None
    """Shell-quoted, only when it was a path or wrapper other than the plain name."""
    name: str
    """A suggested instance name that satisfies ``NAME_PATTERN``."""
    warnings: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    """What the instance still lacks, or what depends on where llamactl runs: not about how the command was read."""

    def instance(self) -> dict[str, OptionValue]:
        """The instance as it stands in a file: only what was given."""
        optional: dict[str, OptionValue] = {
            "executable": self.executable,
            "extra_args": list(self.extra_args),
            "environment": dict(self.environment),
        }
        given = {key: value for key, value in optional.items() if value}
        return {"backend_type": self.backend_type, "backend_options": dict(self.backend_options), **given}

    def as_json(self, *, yaml: str) -> dict[str, OptionValue]:
        """The answer of the route and of ``llamactl parse -o json``; ``yaml`` is the instance as a snippet."""
        return {
            "backend_type": self.backend_type,
            "backend_options": dict(self.backend_options),
            "environment": dict(self.environment),
            "extra_args": list(self.extra_args),
            "executable": self.executable,
            "name": self.name,
            "warnings": [*self.warnings, *self.doubts],
            "yaml": yaml,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSource:
    """How the options of an installed program are read: what to run, and what says which version it is."""

    script: str | None = None
    """Python source for the program's own interpreter, which prints the options; None runs the program itself."""
    arguments: tuple[str, ...] = ()
    """Words behind the executable where there is no script (``--help``)."""
    version_arguments: tuple[str, ...] = ()
    """Words of a second run, behind the executable, that tells the version; empty where the first tells it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables set for the run beside those of the caller: reading options must not touch a GPU or the network."""
    distribution: str | None = None
    """The Python distribution whose files change with its version; None when the executable itself does."""
    timeout: float = 180.0
    """Seconds; importing vLLM with cold files took 8 to 40 s."""


NO_SERVER = "NO_SERVER"
"""Code of the problem that a command line starts no server that any backend knows."""

OptionTable = Mapping[str, object]
"""The options of one version of one server as plain data, in the form of ``backends/vocabulary/*.json``."""

RUNS_APART = "\n\x1e\n"
"""Stands between the outputs of an :class:`OptionSource`'s two runs (each stdout, then stderr) in what a backend reads."""

TableLookup = Callable[[tuple[str, ...]], OptionTable | None]
"""Executable's words in, the table read from that very program out; None when none was read (or it changed since)."""
