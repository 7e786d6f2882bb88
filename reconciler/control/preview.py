"""What a file would change, without changing anything: the planner run ahead against a world in which every action succeeds.

The same ``diff`` as the loop's, with execution left out; time is advanced to each wait's deadline or its expected event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.changes import MASK, FieldChange, field_changes
from reconciler.core.desired import Desired, Mode
from reconciler.core.errors import Problem, Severity
from reconciler.core.forecast import forecast
from reconciler.core.observed import World
from reconciler.core.plan import Action, Start, describe
from reconciler.core.spec import Fleet, ServerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one instance, or to what all have in common."""

    instance: str | None
    """None for a change outside the instances; see :attr:`scope`."""
    scope: str = "instance"
    """``instance``, ``server`` or ``auth``."""
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


def section_changes(before: Fleet, after: Fleet) -> tuple[Change, ...]:
    """What changes outside the instances: settings of the server, and keys by name and digest, never by value."""
    found = []
    for scope, old, new in (
        ("server", _settings(before.server), _settings(after.server)),
        ("auth", _keys(before), _keys(after)),
    ):
        fields = tuple(
            FieldChange(path=path, before=_shown(scope, old.get(path)), after=_shown(scope, new.get(path)))
            for path in sorted(old.keys() | new.keys())
            if old.get(path) != new.get(path)
        )
        if fields:
            cause = ", ".join(map(str, fields))
            found.append(Change(instance=None, scope=scope, kind="policy", cause=cause, fields=fields))
    return tuple(found)


def _settings(server: ServerSpec) -> dict[str, str]:
    values = server.model_dump(mode="json")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _keys(fleet: Fleet) -> dict[str, str]:
    """By list and name: what tells one key from another. A name that is given twice is one entry."""
    found: dict[str, str] = {}
    for kind, keys in (("management_keys", fleet.management_keys), ("inference_keys", fleet.inference_keys)):
        for key in keys:
            instances = sorted(key.instances) if key.instances is not None else None
            path = f"{kind}.{key.name}"
            found[path] = found.get(path, "") + json.dumps([key.digest.hex(), instances])
    return found


def _shown(scope: str, value: str | None) -> str | None:
    return MASK if scope == "auth" and value is not None else value


def not_listening(bound: tuple[str, int] | None, server: ServerSpec, path: Path) -> tuple[Problem, ...]:
    """A warning when the daemon listens elsewhere than declared: that cannot change while it runs."""
    if bound is None or bound == (server.host, server.port):
        return ()
    name = "port" if bound[0] == server.host else "host"
    problem = Problem(
        message=f"the daemon goes on listening on {bound[0]}:{bound[1]}, not on {server.host}:{server.port}",
        hint="it takes effect when the daemon is started again; what runs lives on meanwhile",
        code="SERVER_ADDRESS_PENDING",
        severity=Severity.WARNING,
        file=str(path),
        path=f"server.{name}",
    )
    return (problem,)


def _change(name: str, before: Desired | None, after: Desired | None, actions: list[Action]) -> Change | None:
    fields = field_changes(before.spec if before else None, after.spec if after else None)
    kind = _kind(before, after, actions)
    same = before is not None and after is not None and before.revision == after.revision
    if kind is None and not fields and same:
        return None
    if kind is None:
        kind = "policy"
    if before is None or after is None:
        fields = ()
    text = ", ".join(map(str, fields)) or (
        describe(actions[0]).partition(": ")[2] if actions else "what it is started with"
    )
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
    changes: tuple[Change, ...], steps: tuple[Action, ...], after: Mapping[str, Desired], *, meaning: str = ""
) -> dict[str, object]:
    """The plan answer of the API, without warnings. ``meaning`` is the digest of the whole fleet, its keys included."""
    shown_changes = [
        {
            "instance": change.instance,
            "scope": change.scope,
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
    text = json.dumps([shown_changes, shown_steps, wanted, meaning], sort_keys=True)
    return {
        "schema_version": 1,
        "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
        "pending": bool(changes or steps),
        "changes": shown_changes,
        "steps": shown_steps,
    }
