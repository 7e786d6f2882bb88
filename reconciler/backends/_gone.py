"""Flags of earlier versions in a pasted command: which option of today each means, alone or together with another such flag.

What a flag became is data in the notes; here is only how several of them that became one option are read. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from pydantic import JsonValue

from reconciler.backends._tokens import Word, refuse
from reconciler.backends._vocabulary import Gone, Vocabulary


class Renamed:
    """The flags of earlier versions that one command had so far, by the option that each became."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._given: dict[str, dict[str, Word]] = {}

    def first(self, option: str) -> Word | None:
        """Where such a flag set this option; None when none did."""
        return next(iter(self._given.get(option, {}).values()), None)

    def take(
        self, word: Word, name: str, gone: Gone, held: Mapping[str, JsonValue]
    ) -> tuple[Mapping[str, JsonValue], str | None]:
        """The options that a flag stands for beside those ``held`` already, and the flag that it was read together with.

        Rejected for flags that contradict each other, both of them named.
        """
        settled: dict[str, JsonValue] = {}
        partner: str | None = None
        for option, meaning in gone.becomes.items():
            before = self._given.setdefault(option, {})
            value = meaning
            if option in held and not before:
                self._contradicts(word, name, option, None)
            for earlier in before:
                if earlier == name:
                    value = held[option]
                    break
                together = gone.together.get(earlier) or self._of(earlier).together.get(name) or {}
                if option not in together or (partner is not None and together[option] != value):
                    self._contradicts(word, name, option, earlier)
                value, partner = together[option], earlier
            settled[option] = value
        for option in gone.becomes:
            self._given[option].setdefault(name, word)
        return settled, partner

    def _of(self, name: str) -> Gone:
        found = self._vocabulary.gone_flag(name)
        assert found is not None, "only flags that were found are kept"
        return found

    def _contradicts(self, word: Word, name: str, option: str, earlier: str | None) -> NoReturn:
        other = earlier if earlier is not None else self._vocabulary[option].flag
        message = f"{name} and {other} exclude each other: both are {option} today"
        refuse(word, message, "keep one of them")


def unknown_said(vocabulary: Vocabulary, flag: str, gone: Gone | None, *, kept: bool, near: str | None) -> str:
    """What is said of a flag that the server does not have; ``kept`` says that it goes to ``extra_args``, else it is left out."""
    whose = f"{vocabulary.program} {vocabulary.version}"
    if gone is None:
        message = f"{whose} has no {flag}, kept in extra_args"
        return f"{message}; did you mean {near}?" if near else message
    state = "does not have" if gone.later else "no longer has"
    return f"{whose} {state} {flag}, {'kept in extra_args' if kept else 'which was left out'}: {gone.hint}"
