"""Names of other tools as instance names of ours: valid, unique without regard to case, and near to what they were."""

from __future__ import annotations

import re

_NOT_OURS = re.compile(r"[^A-Za-z0-9._-]+")
_LIMIT = 63
"""Characters of an instance name."""
_NAMELESS = "model"
_MACRO = re.compile(r"^(x)-")
"""What our file reads as a macro, and no instance."""


def is_name(raw: str) -> bool:
    """Whether an instance can be called this; where it still is not, another one has the name already."""
    return instance_name(raw, set()) == raw


def instance_name(raw: str, taken: set[str]) -> str:
    """A valid name close to ``raw`` that is not among ``taken`` (in lower case); it is added there.

    ``org/Model:Q4`` becomes ``org-Model-Q4``; a second one of the same letters gets ``-2``.
    """
    base = _NOT_OURS.sub("-", raw).lstrip("._-")[:_LIMIT].rstrip("._-") or _NAMELESS
    base = _MACRO.sub(r"\1_", base)
    name, count = base, 1
    while name.lower() in taken:
        count += 1
        tail = f"-{count}"
        name = base[: _LIMIT - len(tail)].rstrip("._-") + tail
    taken.add(name.lower())
    return name
