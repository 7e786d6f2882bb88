"""Reading JSON that somebody else wrote: typed access that names the place of what is wrong instead of failing somewhere later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeAlias

from reconciler.cli.failure import Garbled

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def decode(text: str | bytes) -> Json:
    """The JSON value, whatever is in the text; ValueError for anything that is not one (too deep a nesting included)."""
    try:
        value: Json = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


class Node:
    """A JSON object and its place. Absent and null fields read as the empty value of the type that is asked for."""

    __slots__ = ("_place", "raw")

    def __init__(self, raw: Json, place: str = "the answer") -> None:
        if not isinstance(raw, dict):
            raise _garbled(place, "an object")
        self.raw = raw
        self._place = place

    def __contains__(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def _at(self, key: str) -> str:
        return f"{self._place}.{key}"

    def text(self, key: str) -> str:
        """A string; numbers are taken as their text."""
        value = self.raw.get(key)
        if value is None:
            return ""
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
        raise _garbled(self._at(key), "a string")

    def number(self, key: str) -> int:
        """A whole number."""
        value = self.raw.get(key)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int):
            raise _garbled(self._at(key), "a whole number")
        return value

    def optional_number(self, key: str) -> int | None:
        """A whole number, or None where there is none."""
        return self.number(key) if key in self else None

    def flag(self, key: str) -> bool:
        """A boolean."""
        value = self.raw.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise _garbled(self._at(key), "true or false")
        return value

    def node(self, key: str) -> Node | None:
        """An object, or None where there is none."""
        return Node(self.raw[key], self._at(key)) if key in self else None

    def _list(self, key: str) -> list[Json]:
        value = self.raw.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise _garbled(self._at(key), "a list")
        return value

    def nodes(self, key: str) -> Iterator[Node]:
        """The objects of a list."""
        for index, item in enumerate(self._list(key)):
            yield Node(item, f"{self._at(key)}[{index}]")

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings of a list."""
        items = self._list(key)
        if not all(isinstance(item, str) for item in items):
            raise _garbled(self._at(key), "a list of strings")
        return tuple(str(item) for item in items)


def _garbled(place: str, expected: str) -> Garbled:
    return Garbled(
        f"cannot understand the daemon: {place} is not {expected}; "
        "try the same version of llamactl on both sides, and check that the URL is a llamactl daemon's"
    )


def quoted(value: Json) -> str:
    """A JSON value in one short line, for people."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
