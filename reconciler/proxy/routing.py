"""Which instance a model name means, and which of its replicas takes the next request. Pure but for the counter that breaks ties."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection
from dataclasses import dataclass

from reconciler.control.leases import Leases
from reconciler.control.routes import Route, Routes, Target
from reconciler.proxy.auth import Grant
from reconciler.proxy.refusals import Refusal

SHOWN_NAME = 120
"""Characters of an unknown model name that are repeated in the answer; also the longest for which nearest names are looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a model name means."""

    instance: str
    served: str | None
    """What followed ``instance/``; None when the instance or an alias was named alone."""
    asked: str
    """The name as the client wrote it."""

    def name_for(self, target: Target) -> str | None:
        """What the backend is to read as ``model``; None leaves the client's value. LookupError when it serves another model."""
        known = target.endpoint.served_model
        if self.served is None:
            return known
        if known is not None and known != self.served:
            raise LookupError(known)
        return self.served


def resolve(routes: Routes, model: str, grant: Grant) -> Resolved:
    """The instance for ``model``: a name or alias, else the longest name before a slash, with what the backend serves after it.

    Case counts. Refusal 404 ``model_not_found`` with the nearest names this caller may use; 403 for an instance it may not use.
    """
    found = _lookup(routes, model)
    if found is None:
        raise _unknown(model, usable_names(routes, grant))
    if not grant.may_use(found.instance):
        raise Refusal(403, f"this key may not use the model {_shown(model)}", code="model_not_allowed", param="model")
    return found


def _lookup(routes: Routes, model: str) -> Resolved | None:
    instance = routes.names.get(model)
    if instance is not None:
        return Resolved(instance=instance, served=None, asked=model)
    # only cuts behind a known name are tried: a name may be megabytes of slashes, the names are few
    for length in sorted({len(name) for name in routes.names}, reverse=True):
        if len(model) > length + 1 and model[length] == "/":
            instance = routes.names.get(model[:length])
            if instance is not None:
                return Resolved(instance=instance, served=model[length + 1 :], asked=model)
    return None


def usable_names(routes: Routes, grant: Grant) -> list[str]:
    """Every name, aliases included, that this caller may send, in the file's order."""
    return [name for name, instance in routes.names.items() if grant.may_use(instance)]


def _shown(model: str) -> str:
    text = json.dumps(model[:SHOWN_NAME], ensure_ascii=False)
    return text if len(model) <= SHOWN_NAME else text + "..."


def _unknown(model: str, names: list[str]) -> Refusal:
    near = difflib.get_close_matches(model, names, n=3, cutoff=0.5) if len(model) <= SHOWN_NAME else []
    if near:
        cure = "did you mean " + " or ".join(near) + "?"
    elif names:
        cure = "GET /v1/models lists what there is"
    else:
        cure = "there is none that this key may use"
    return Refusal(404, f"the model {_shown(model)} does not exist: {cure}", code="model_not_found", param="model")


def unserved(resolved: Resolved, served: str) -> Refusal:
    """The instance is known, but it serves another model than the one after the slash."""
    return Refusal(
        404,
        f"the model {_shown(resolved.asked)} does not exist: {resolved.instance} serves {_shown(served)}",
        code="model_not_found",
        param="model",
    )


class Balancer:
    """Least outstanding requests; equals take turns."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._turn = 0

    def choose(self, route: Route, resolved: Resolved, *, avoid: Collection[str] = ()) -> Target | None:
        """The target for the next request, none of the keys in ``avoid``; None when there is none.

        Refusal 404 when the request names a served model and every target that is left serves another one.
        """
        left = [target for target in route.targets if target.key not in avoid]
        other: str | None = None
        fitting = []
        for target in left:
            try:
                resolved.name_for(target)
            except LookupError as error:
                other = str(error.args[0])
            else:
                fitting.append(target)
        if not fitting:
            if other is not None:
                raise unserved(resolved, other)
            return None
        if len(fitting) == 1:
            return fitting[0]
        loads = [self._leases.in_flight(target.key) for target in fitting]
        least = min(loads)
        idle = [target for target, load in zip(fitting, loads, strict=True) if load == least]
        self._turn += 1
        return idle[self._turn % len(idle)]
