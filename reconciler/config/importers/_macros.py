"""llama-swap's macros: ``${name}`` in texts, replaced from the model's own macros, then the file's, each of which may use earlier ones.

Built in are ``${MODEL_ID}``, ``${PORT}`` and ``${env.NAME}``; the last becomes a variable of ours, read when our file is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.config.importers._walk import Section, scalar_text
from reconciler.config.importers._words import Ref, Text

_REFERENCE = re.compile(r"\$\{([^{}$\s]+)\}")
_ENV = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)")
_ROUNDS = 20
"""Macros in macros; llama-swap's own files nest two or three."""
_LONGEST = 64 * 1024
"""Characters of an expanded text; a command of that length is no command."""
PORT = "\ue000PORT\ue000"
"""Stands for the port in an expanded text; a character for private use, which no file of this kind holds."""
PLACEHOLDER = "{port}"
_VARIABLE = re.compile("\ue001([A-Za-z_][A-Za-z0-9_]*)\ue002")
"""Stands for ``${NAME}`` of ours in an expanded text."""


class Undefined(ValueError):
    """A text uses what is not defined."""


@dataclass(frozen=True, slots=True)
class Macros:
    """What may be put in, by name."""

    values: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    """Where each stands in the file: ``models.qwen.macros.ctx``."""
    used: set[str] = field(default_factory=set)
    """Places of those that were put in somewhere; shared by everything that is made from these."""

    def with_section(self, section: Section | None) -> Macros:
        """These and a ``macros:`` mapping, whose own win."""
        if section is None:
            return self
        own: dict[str, str] = {}
        for key in section.table.entries:
            node = section.node(key)
            text = scalar_text(node) if node is not None else ""
            if text is None:
                section.lose(key, "a macro is a text, a number or a boolean")
            else:
                own[key] = text
        return Macros({**self.values, **own}, {**self.places, **{key: section.path(key) for key in own}}, self.used)

    def tell_unused(self, section: Section | None) -> None:
        """Report the macros of a section that were put in nowhere."""
        if section is None:
            return
        told = {one.what for one in section.lost}
        for key in section.table.entries:
            if section.path(key) not in told and section.path(key) not in self.used:
                section.lose(key, "nothing that was carried over uses this macro")

    def with_values(self, **values: str) -> Macros:
        """These and some more."""
        return Macros({**self.values, **values}, self.places, self.used)

    def expand(self, text: str) -> str:
        """The text with every macro replaced, the port as :data:`PORT`, for :func:`as_text`.

        Raises Undefined.
        """
        for _ in range(_ROUNDS):
            if not _REFERENCE.search(text):
                return text
            text = _REFERENCE.sub(self._one, text)
            if len(text) > _LONGEST:
                raise Undefined("its macros make it longer than any command")
        raise Undefined("its macros contain each other")

    def _one(self, match: re.Match[str]) -> str:
        name = match[1]
        variable = _ENV.fullmatch(name)
        if variable is not None:
            return f"\ue001{variable[1]}\ue002"
        if name == "PORT":
            return PORT
        if name not in self.values:
            raise Undefined(f"the macro ${{{name}}} is not defined")
        if name in self.places:
            self.used.add(self.places[name])
        return self.values[name]


def as_text(expanded: str) -> Text:
    """An expanded text with its variables apart, the port as ``{port}``."""
    pieces: list[str | Ref] = []
    for at, piece in enumerate(_VARIABLE.split(expanded.replace(PORT, PLACEHOLDER))):
        if piece:
            pieces.append(Ref(piece) if at % 2 else piece)
    return tuple(pieces)
