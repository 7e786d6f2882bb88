"""What should be: each declared instance expanded into a launch, a revision and its policy. Pure; backends are handed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from reconciler.core.contracts import Backend, Endpoint, Launch, Probe
from reconciler.core.spec import Fleet, InstanceSpec, InstanceState


class Mode(StrEnum):
    """When an instance should have processes."""

    RUNNING = "running"
    ON_DEMAND = "on_demand"
    DISABLED = "disabled"
    ENDING = "ending"
    """Everything is being stopped; the declaration does not matter any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """One declared instance, ready for planning."""

    name: str
    spec: InstanceSpec
    mode: Mode
    launch: Launch | None
    """None for an instance that is never started by us."""
    revision: str
    """Empty for an instance that is never started by us."""
    external: Endpoint | None
    readiness: Probe
    liveness: Probe
    start_timeout: float
    """Seconds."""

    @property
    def replicas(self) -> int:
        """Declared number of processes."""
        return self.spec.replicas if self.launch is not None else 0


def mode_of(spec: InstanceSpec) -> Mode:
    """``enabled: false`` switches either state off."""
    if not spec.enabled:
        return Mode.DISABLED
    return Mode.ON_DEMAND if spec.state is InstanceState.ON_DEMAND else Mode.RUNNING


def expand(fleet: Fleet, backends: Mapping[str, Backend], environ: Mapping[str, str]) -> dict[str, Desired]:
    """Every declared instance, by name. ``environ`` is only read for keys of external endpoints."""
    desired = {}
    for name, spec in fleet.instances.items():
        backend = backends[spec.backend_type]
        launch = backend.launch(spec, fleet.backends)
        if launch is not None:
            launch = replace(launch, served_model=backend.served_model(spec))
        desired[name] = Desired(
            name=name,
            spec=spec,
            mode=mode_of(spec),
            launch=launch,
            revision=launch.revision() if launch is not None else "",
            external=backend.external(spec, environ) if launch is None else None,
            readiness=backend.readiness(spec),
            liveness=backend.liveness(spec),
            start_timeout=spec.start_timeout if spec.start_timeout is not None else backend.start_timeout,
        )
    return desired
