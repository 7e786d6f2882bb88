"""What a file would change, without changing anything: the planner run ahead against a world in which every action succeeds.

The same ``diff`` as the loop's, with execution left out; time is advanced to each wait's deadline or its expected event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.core.changes import FieldChange, field_changes
from reconciler.core.desired import Desired, Mode
from reconciler.core.forecast import forecast
from reconciler.core.observed import World
from reconciler.core.plan import Action, Start, describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one instance."""

    instance: str
    kind: str
    """``create``, ``replace``, ``remove``, ``start``, ``stop``, ``scale`` or ``policy``."""
    cause: str
    fields: tuple[FieldChange, ...]


def preview(
    before: Mapping[str, Desired], after: Mapping[str, Desired], world: World, *, now: float, limit: int
) -> tuple[tuple[Change, ...], tuple[Action, ...]]:
    """The changes by instance and every action in the order in which it would be taken."""
    causes = {}
    for name, desired in after.items():
        was = before.get(name)
        if was is not None and was.revision != desired.revision:
            causes[name] = ", ".join(map(str, field_changes(was.spec, desired.spec)))
    steps = forecast(after, world, causes=causes, now=now, max_parallel_replacements=limit)
    by_instance: dict[str, list[Action]] = {}
    for action in steps:
        name = action.instance if isinstance(action, Start) else action.handle.instance
        by_instance.setdefault(name, []).append(action)
    names = list(after) + sorted((set(before) | set(world.replicas)) - set(after))
    changes = [_change(name, before.get(name), after.get(name), by_instance.get(name, [])) for name in names]
    return tuple(change for change in changes if change is not None), steps


def _change(name: str, before: Desired | None, after: Desired | None, actions: list[Action]) -> Change | None:
    fields = field_changes(before.spec if before else None, after.spec if after else None)
    kind = _kind(before, after, actions)
    if kind is None and not fields:
        return None
    if kind is None:
        kind = "policy"
    if before is None or after is None:
        fields = ()
    text = ", ".join(map(str, fields)) or (describe(actions[0]).partition(": ")[2] if actions else "")
    return Change(instance=name, kind=kind, cause=text, fields=fields)


def _kind(before: Desired | None, after: Desired | None, actions: list[Action]) -> str | None:
    starts = any(isinstance(action, Start) for action in actions)
    ends = any(not isinstance(action, Start) for action in actions)
    if after is None:
        return "remove"
    if before is None:
        return "create" if not ends else "replace"
    if starts and ends:
        return "replace"
    if before.replicas != after.replicas and (starts or ends):
        return "scale"
    if starts:
        return "start"
    if ends:
        return "stop"
    return None


def preview_json(
    changes: tuple[Change, ...], steps: tuple[Action, ...], after: Mapping[str, Desired]
) -> dict[str, object]:
    """The plan answer of the API, without warnings."""
    shown_changes = [
        {
            "instance": change.instance,
            "kind": change.kind,
            "cause": change.cause,
            "fields": [{"path": f.path, "before": f.before, "after": f.after} for f in change.fields],
        }
        for change in changes
    ]
    shown_steps = [
        {
            "do": type(step).__name__.lower(),
            "replica": f"{step.instance}#{step.serial}" if isinstance(step, Start) else step.handle.replica,
            "text": describe(step),
        }
        for step in steps
    ]
    wanted = {name: [one.revision, one.mode.value] for name, one in after.items() if one.mode is not Mode.ENDING}
    text = json.dumps([shown_changes, shown_steps, wanted], sort_keys=True)
    return {
        "schema_version": 1,
        "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
        "pending": bool(changes or steps),
        "changes": shown_changes,
        "steps": shown_steps,
    }
