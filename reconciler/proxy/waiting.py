"""Requests for an instance that has no ready replica: held while it starts, bounded in number and time, refused where waiting is vain."""

from __future__ import annotations

from reconciler.control.routes import Route
from reconciler.core.desired import Mode
from reconciler.core.lifecycle import Phase
from reconciler.proxy.refusals import Refusal
from reconciler.proxy.world import World

_VAIN = frozenset({Phase.BACKOFF, Phase.FAILED, Phase.STOPPED, Phase.UNREADY})
"""Phases of a ``running`` instance in which a request fails at once: a client's own retry after ``Retry-After`` serves better than a
connection that is held through crashes, and an external endpoint that does not answer is not ours to start."""
_VAIN_ON_DEMAND = frozenset({Phase.FAILED})
"""An on-demand instance exists to be waited for; only one that was given up will not come."""


def unavailable(route: Route) -> Refusal:
    """503 with the reason and when to come back."""
    return Refusal(
        503,
        route.reason or f"instance {route.instance} is {route.phase.value}",
        code="instance_unavailable",
        retry_after=route.retry_after,
    )


def gone(instance: str) -> Refusal:
    """404: it was removed while the request waited."""
    return Refusal(404, f"the model {instance} does not exist any more", code="model_not_found", param="model")


def _refuse_vain(route: Route) -> None:
    if route.mode is Mode.DISABLED:
        raise unavailable(route)
    if route.phase in (_VAIN_ON_DEMAND if route.mode is Mode.ON_DEMAND else _VAIN):
        raise unavailable(route)


async def ready_route(world: World, instance: str) -> Route:
    """The instance's route with at least one target, after waiting for a start if need be.

    Returns in the same step of the event loop in which the target was seen, so that a lease can be taken before anything else runs.
    Refusal 404 when it is gone, 503 with ``Retry-After`` when too many wait already, or when it does not come in time or at all.
    """
    seen = world.routes
    route = seen.by_instance.get(instance)
    if route is None:
        raise gone(instance)
    if route.targets:
        return route
    _refuse_vain(route)
    if world.leases.waiting_for(instance) >= route.queue.length:
        raise Refusal(
            503,
            f"{route.queue.length} requests wait for {instance} already (queue.length)",
            code="queue_full",
            retry_after=route.retry_after,
        )
    until = world.clock.monotonic() + route.start_wait
    with world.leases.waiting(instance):
        while True:
            try:
                seen = await world.routes_changed(seen, max(0.0, until - world.clock.monotonic()))
            except TimeoutError:
                raise unavailable(route) from None
            following = seen.by_instance.get(instance)
            if following is None:
                raise gone(instance)
            route = following
            if route.targets:
                return route
            _refuse_vain(route)
