"""The variables that a pasted command sets before it uses them, as far as their values are known without a shell. Pure.

Only what a shell would have set by then counts: what stands on an earlier line, and for an assignment those before it on its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from reconciler.backends._word import Word

_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


class Variables:
    """What the words so far set; told of each word as it ends."""

    def __init__(self, hides: Callable[[str, str], bool]) -> None:
        self._hides = hides
        self._set: dict[str, tuple[str, int]] = {}
        self.pending: dict[str, tuple[str, int]] = {}
        """Set on the line that is being read, each with its value and the number of its word."""
        self.spent: set[int] = set()
        """Numbers of the words whose value was used."""
        self.taken = 0
        """Characters that were put in so far: values of values may grow."""
        self._count = 0
        self._only = True
        """The line that is being read has held nothing but assignments."""
        self._exports = False

    def add(self, word: Word) -> None:
        """One more word."""
        if word.fresh_line:
            self._end_line()
        found = _ASSIGNED.fullmatch(word.text) if word.assignment else None
        if not self.pending and self._only and word.text == "export":
            self._exports = True
        elif found is not None and (self._only or self._exports):
            self.pending[found[1]] = (found[2], self._count)
            self._only = self._only and not self._exports
        else:
            self._only = False
        self._count += 1

    def _end_line(self) -> None:
        if self._only or self._exports:
            self._set.update(self.pending)
        self.pending, self._only, self._exports = {}, True, False

    def value(self, name: str, *, fresh: bool, assigning: bool) -> str | None:
        """The value, as a text of the file; None for a variable that is not set yet, or is a secret.

        ``fresh`` says that a line begins with the word in which it is asked for, ``assigning`` that this word is an assignment.
        """
        if fresh:
            self._end_line()
        found = self._set.get(name)
        if assigning and self._only:
            found = self.pending.get(name, found)
        if found is None or self._hides(name, found[0]):
            return None
        self.spent.add(found[1])
        self.taken += len(found[0])
        return found[0]


def alone(words: Sequence[Word], at: int) -> bool:
    """Whether nothing but assignments stands from here to the end of the line, and another line follows."""
    while at < len(words) and words[at].assignment and not words[at].fresh_line:
        at += 1
    return at < len(words) and words[at].fresh_line
