"""What differs between two declarations of an instance, field by field, in words a user can read; secrets differ without being shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from reconciler.core.secrets import conceal, is_secret_name
from reconciler.core.spec import InstanceSpec

MASK = "(hidden)"
_LONGEST_VALUE = 60
"""Characters of a value that are shown; an option's value is mostly a number or a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field, before and after, as text; None means absent."""

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        """``max_model_len 4096 -> 8192``."""
        name = self.path.removeprefix("backend_options.")
        if self.before is None:
            return f"{name} {self.after} added"
        if self.after is None:
            return f"{name} removed"
        return f"{name} {self.before} -> {self.after}" if self.before != self.after else f"{name} changed"


def field_changes(before: InstanceSpec | None, after: InstanceSpec | None) -> tuple[FieldChange, ...]:
    """Every differing leaf, in order of its path."""
    old = _leaves(before)
    new = _leaves(after)
    old_hidden = before.expanded if before is not None else frozenset()
    new_hidden = after.expanded if after is not None else frozenset()
    return tuple(
        FieldChange(path=path, before=_shown(path, old, old_hidden), after=_shown(path, new, new_hidden))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def leaf_path(path: Sequence[str | int]) -> str:
    """The field that holds a value of the document, as :func:`field_changes` names it: a list is one field."""
    steps: list[str] = []
    for step in path:
        if isinstance(step, int):
            break
        # both spellings of an option are one option
        steps.append(step.replace("-", "_") if steps == ["backend_options"] else step)
    return ".".join(steps)


def _shown(path: str, leaves: Mapping[str, str], hidden: Set[str]) -> str | None:
    """One side of a change; what came from a variable is as good as a secret, since nobody wrote it where it can be read."""
    if path not in leaves:
        return None
    if path in hidden or path.startswith("environment.") or is_secret_name(path.rpartition(".")[2]):
        return MASK
    text = conceal(leaves[path], stars="***")
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _leaves(spec: InstanceSpec | None) -> dict[str, str]:
    if spec is None:
        return {}
    leaves: dict[str, str] = {}

    def walk(path: tuple[str, ...], value: object) -> None:
        if isinstance(value, Mapping) and value:
            for key, below in value.items():
                walk((*path, str(key)), below)
        else:
            leaves[leaf_path(path)] = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value

    walk((), spec.model_dump(mode="json", exclude_none=True))
    return leaves
