"""The known name most like a mistyped one, among many: pairs of letters pick a few, and only those are compared in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_COMPARED = 6
"""Names compared in full: one comparison costs 20 to 40 µs, and all of vLLM's 700 spellings cost 3 ms."""
_LONGEST = 80
"""Characters; no flag of any server has more than 60."""
_CUTOFF = 0.6
_SLIP = 0.86
"""Likeness from which on nothing but a slip lies between two names."""

Index = Mapping[str, tuple[str, ...]]
"""Names by each pair of letters in them."""


def index(names: Iterable[str]) -> Index:
    """What :func:`nearest` looks names up in."""
    found: dict[str, list[str]] = {}
    for name in names:
        for pair in _pairs(name):
            found.setdefault(pair, []).append(name)
    return {pair: tuple(names) for pair, names in found.items()}


def nearest(wanted: str, known: Index) -> str | None:
    """The most similar name, None when none is similar enough."""
    if len(wanted) > _LONGEST:
        return None
    shared = Counter(name for pair in _pairs(wanted) for name in known.get(pair, ()))
    best = sorted(shared, key=lambda name: (-2 * shared[name] / (len(name) + len(wanted)), name))[:_COMPARED]
    close = get_close_matches(wanted, best, n=1, cutoff=_CUTOFF)
    return close[0] if close else None


def nearest_key(wanted: str, keys: Iterable[str]) -> str | None:
    """The key that differs by a slip; else one that begins so, holds these words, or is the beginning; else the most alike."""
    keys = tuple(keys)
    slip = get_close_matches(wanted, keys, n=1, cutoff=_SLIP)
    if slip:
        return slip[0]
    words = [word for word in wanted.split("_") if len(word) > 1] or [wanted]
    start = "_".join(words)
    begins = [key for key in keys if len(start) > 2 and key.startswith(start)]
    holds = [key for key in keys if all(any(part.startswith(word) for part in key.split("_")) for word in words)]
    if len(start) > 2 and (begins or holds):
        return min(begins or holds, key=len)
    begun = [key for key in keys if len(key) > 2 and wanted.startswith(key + "_")]
    if begun:
        return max(begun, key=len)
    return next(iter(get_close_matches(wanted, keys, n=1, cutoff=_CUTOFF)), None)


def _pairs(name: str) -> set[str]:
    return {name[at : at + 2] for at in range(len(name) - 1)}
