"""What the proxy may know: one immutable snapshot of names, keys and ready replicas, replaced whole after each pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.contracts import Endpoint, Handle
from reconciler.core.desired import Mode
from reconciler.core.lifecycle import Phase
from reconciler.core.spec import AccessKey, QueueSpec, ServerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One place that takes requests for an instance."""

    key: str
    """Unique per replica (its token), or the instance's name for an external endpoint; the key of its leases."""
    endpoint: Endpoint
    handle: Handle | None
    """None for an external endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One instance as requests see it."""

    instance: str
    backend_type: str
    mode: Mode
    phase: Phase
    targets: tuple[Target, ...]
    """Ready and not draining; empty while it starts."""
    aliases: tuple[str, ...]
    created: int
    """Unix time at which the instance was first accepted, for ``/v1/models``."""
    start_wait: float
    """Seconds that a request may wait for a start (``queue.timeout``, else ``on_demand_start_timeout``)."""
    queue: QueueSpec
    reason: str
    """Why there is no target, for people; empty when there is one."""
    retry_after: int
    """Seconds for a ``Retry-After`` header while there is no target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The snapshot."""

    generation: int = 0
    server: ServerSpec = field(default_factory=ServerSpec)
    by_instance: Mapping[str, Route] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """Every name a request may use (instances and aliases) to the instance."""
    management_keys: tuple[AccessKey, ...] = ()
    inference_keys: tuple[AccessKey, ...] = ()
