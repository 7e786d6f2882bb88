"""What differs between two declarations of an instance, field by field, in words a user can read; secrets differ without being shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.spec import InstanceSpec

MASK = "(hidden)"
_SECRET = re.compile(r"(?:^|[._-])(?:api_?key|key|token|secret|password|passphrase|credentials?)$", re.IGNORECASE)
"""Names that end in a word for a secret: ``hf_token`` and ``api-key``, not ``max_tokens`` or ``token_delay_ms``."""
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
    return tuple(
        FieldChange(path=path, before=_shown(path, old), after=_shown(path, new))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def _shown(path: str, leaves: Mapping[str, str]) -> str | None:
    if path not in leaves:
        return None
    if path.startswith("environment.") or _SECRET.search(path):
        return MASK
    text = leaves[path]
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _leaves(spec: InstanceSpec | None) -> dict[str, str]:
    if spec is None:
        return {}
    leaves: dict[str, str] = {}

    def walk(path: str, value: object) -> None:
        if isinstance(value, Mapping) and value:
            for key, below in value.items():
                # both spellings of an option are one option
                name = str(key).replace("-", "_") if path == "backend_options" else str(key)
                walk(f"{path}.{name}" if path else name, below)
        else:
            leaves[path] = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value

    walk("", spec.model_dump(mode="json", exclude_none=True))
    return leaves
