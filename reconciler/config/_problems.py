"""Collects what is wrong with a source, each with its line of text, once, in the file's order, and without any secret in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from reconciler.config._guard import MAX_PROBLEMS
from reconciler.config._secrets import Secrets, mask_unread
from reconciler.config._tree import Path, Place, words
from reconciler.core.errors import Problem, Rejected, Severity


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    folded = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


@dataclass(slots=True)
class Reporter:
    """One per load."""

    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Text of each file, for the caret display."""
    unread: frozenset[str] = frozenset()
    """Files of which there is no tree, so that secrets are known by their shape alone."""
    secrets: Secrets = field(default_factory=Secrets)
    _problems: list[Problem] = field(default_factory=list)
    _said: set[tuple[str | None, int | None, int | None, str]] = field(default_factory=set)
    _unreadable: set[tuple[str | None, int | None, int | None]] = field(default_factory=set)
    _masked: dict[tuple[str, int], str | None] = field(default_factory=dict)

    def error(
        self,
        place: Place | None,
        message: str,
        *,
        path: Path = (),
        hint: str | None = None,
        code: str = "CONFIG_INVALID",
        also: tuple[Place, ...] = (),
        warning: bool = False,
    ) -> None:
        """Note one problem at a place of a file, or of the environment (``place.line`` 0)."""
        self.add(
            Problem(
                message=message,
                hint=hint,
                code=code,
                severity=Severity.WARNING if warning else Severity.ERROR,
                file=place.file if place else None,
                line=place.line if place and place.line else None,
                column=place.column if place and place.line else None,
                path=words(path),
                also=also,
            )
        )

    def warning(self, place: Place | None, message: str, *, path: Path = (), hint: str | None = None) -> None:
        """Note something doubtful that does not stop the file from being used."""
        self.error(place, message, path=path, hint=hint, warning=True)

    def add(self, problem: Problem) -> None:
        """Note a problem; dropped when it stands already, or when its value could not be read in the first place."""
        spot = (problem.file, problem.line, problem.column)
        if problem.path and spot in self._unreadable and problem.severity is Severity.ERROR:
            return
        problem = replace(
            problem,
            message=self.secrets.clean(problem.message),
            hint=problem.hint and self.secrets.clean(problem.hint),
            path=self.secrets.clean(problem.path) if problem.path.startswith("auth") else problem.path,
        )
        if (*spot, problem.message) in self._said:
            return
        self._said.add((*spot, problem.message))
        if problem.source is None and problem.file is not None and problem.line is not None:
            problem = replace(problem, source=self._line(problem.file, problem.line))
        self._problems.append(problem)
        if len(self._problems) > MAX_PROBLEMS:
            more = Problem(message=f"more than {MAX_PROBLEMS} problems; the rest is not shown", file=problem.file)
            raise Rejected(*self.errors, more)

    def _line(self, file: str, line: int) -> str | None:
        """The line without its secrets; one text for all problems on it, since a line can be a whole file."""
        if file in self.unread:
            self.lines = {**self.lines, file: mask_unread(self.lines.get(file, ()))}
            self.unread -= {file}
        if (file, line) not in self._masked:
            lines = self.lines.get(file, ())
            text = lines[line - 1] if line <= len(lines) else None
            self._masked[file, line] = None if text is None else self.secrets.line(file, line, text)
        return self._masked[file, line]

    def unreadable(self, problems: Iterable[Problem]) -> None:
        """Note what the parser found; later complaints about the same values are echoes of it."""
        for problem in problems:
            self.add(problem)
            self._unreadable.add((problem.file, problem.line, problem.column))

    def unusable(self, place: Place, message: str, *, path: Path, hint: str | None) -> None:
        """Note that a value cannot be had; later complaints about it are echoes."""
        self.error(place, message, path=path, hint=hint)
        self._unreadable.add(place)

    def cannot_be_had(self, place: Place) -> bool:
        """Whether what stands at this place was told as unreadable."""
        return place[:3] in self._unreadable

    def has(self, path: Path) -> bool:
        """Whether an error at exactly this path was noted."""
        return any(problem.path == words(path) for problem in self.errors)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """All errors, in the file's order."""
        return self._sorted(Severity.ERROR)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """All warnings, in the file's order."""
        return self._sorted(Severity.WARNING)

    def _sorted(self, severity: Severity) -> tuple[Problem, ...]:
        chosen = [problem for problem in self._problems if problem.severity is severity]
        return tuple(sorted(chosen, key=lambda problem: (problem.file or "", problem.line or 0, problem.column or 0)))
