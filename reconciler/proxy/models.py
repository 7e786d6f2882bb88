"""``GET /v1/models`` from the routes alone: what a caller may name, aliases included. No backend is asked."""

from __future__ import annotations

from reconciler.control.routes import Routes
from reconciler.core.desired import Mode
from reconciler.proxy.auth import Grant
from reconciler.proxy.routing import resolve

OWNER = "llamactl"


def _model(name: str, created: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}


def model_list(routes: Routes, grant: Grant) -> dict[str, object]:
    """OpenAI's list: instances in the file's order, then aliases; those switched off are left out."""
    data = []
    for name, instance in routes.names.items():
        route = routes.by_instance.get(instance)
        if route is not None and route.mode is not Mode.DISABLED and grant.may_use(instance):
            data.append(_model(name, route.created))
    return {"object": "list", "data": data}


def one_model(routes: Routes, grant: Grant, name: str) -> dict[str, object]:
    """One entry of it, under the name that was asked for; Refusal 404 or 403 like a request to it."""
    resolved = resolve(routes, name, grant)
    return _model(name, routes.by_instance[resolved.instance].created)
