"""Keeps a defect where it is: work for one instance that raises is recorded as that instance's fault, and the others go on.

Not for errors that have a name and a meaning; only what nobody foresaw ends up here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from reconciler.core.desired import Desired
from reconciler.core.diff import diff
from reconciler.core.observed import World
from reconciler.core.plan import Plan

log = logging.getLogger("llamactl.faults")

_T = TypeVar("_T")


class Faults:
    """What went wrong by a defect, by instance; each entry goes when the same work succeeds again."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], str] = {}

    def by_instance(self) -> dict[str, str]:
        """One text per instance."""
        found: dict[str, str] = {}
        for (name, _), text in self._seen.items():
            found[name] = f"{found[name]}; {text}" if name in found else text
        return found

    def attempt(self, name: str, doing: str, work: Callable[[], _T], otherwise: _T) -> _T:
        """The result of ``work``, or ``otherwise`` when it raises."""
        try:
            result = work()
        except Exception as error:  # one instance's defect must not stop the others; it is shown and tried again
            text = f"internal error while {doing}: {error!r}"
            if self._seen.get((name, doing)) != text:  # the same one in every pass is told once
                log.exception("defect while %s", doing, extra={"instance": name})
            self._seen[name, doing] = text
            return otherwise
        self.clear(name, doing)
        return result

    def clear(self, name: str, doing: str) -> None:
        """This work succeeded for the instance."""
        self._seen.pop((name, doing), None)

    def keep(self, names: Collection[str]) -> None:
        """Forget instances that are gone."""
        self._seen = {key: text for key, text in self._seen.items() if key[0] in names}


PLANNING = "planning"


def plan_around(
    faults: Faults,
    desired: Mapping[str, Desired],
    world: World,
    *,
    now: float,
    limit: int,
    without: Collection[str] = (),
) -> Plan:
    """``diff``; instances for which it raises, and those in ``without``, are left exactly as they are while the others are planned."""
    names = (desired.keys() | world.replicas.keys()) - set(without)

    def plan(chosen: Collection[str]) -> Plan:
        part = {name: one for name, one in desired.items() if name in chosen}
        members = {name: replicas for name, replicas in world.replicas.items() if name in chosen}
        return diff(part, replace(world, replicas=members), now=now, max_parallel_replacements=limit)

    def alone(name: str) -> bool:
        plan({name})
        return True

    try:
        whole = plan(names)
    except Exception:  # noqa: BLE001  # whose defect it is shows in the next lines; one that belongs to nobody alone is raised there
        return plan({name for name in names if faults.attempt(name, PLANNING, partial(alone, name), False)})
    for name in names:
        faults.clear(name, PLANNING)
    return whole
