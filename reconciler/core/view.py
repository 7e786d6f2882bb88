"""One instance as the planner looks at it: what is wanted, which launch to converge to, and its replicas sorted into current and old."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.contracts import Launch, ProcessState
from reconciler.core.desired import Desired, Mode
from reconciler.core.lifecycle import exhausted, given_up, span
from reconciler.core.observed import Demand, Failures, History, Replica, World
from reconciler.core.spec import StopSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One instance with its replicas sorted into what they are to the plan."""

    name: str
    desired: Desired | None
    history: History
    demand: Demand
    stop: StopSpec
    now: float
    want: int
    why_not: str
    """Why ``want`` is zero."""
    target: Launch | None
    target_revision: str
    gave_up: str | None
    """Set when the declared revision was given up and ``target`` is the last good one (or nothing more is tried)."""
    replicas: tuple[Replica, ...]
    current: tuple[Replica, ...]
    """Running at the target revision."""
    old: tuple[Replica, ...]
    """Running at another revision, or from before a requested restart."""
    cause: str

    @property
    def failures(self) -> Failures | None:
        """Of the target revision."""
        return self.history.failures.get(self.target_revision)

    @property
    def occupied(self) -> int:
        """Replicas of which anything is left; they hold memory whatever their phase."""
        return sum(1 for replica in self.replicas if replica.facts.state is not ProcessState.EXITED)

    @property
    def ready(self) -> int:
        """Current replicas that take requests."""
        return sum(1 for replica in self.current if replica.health.ready)

    @property
    def leaving(self) -> bool:
        """Something is draining or stopping."""
        return any(
            replica.facts.state is ProcessState.STOPPING
            or (replica.facts.state is ProcessState.RUNNING and replica.draining_since is not None)
            for replica in self.replicas
        )

    @property
    def replacement_under_way(self) -> bool:
        """Counts against ``max_parallel_replacements``: begun, not finished, not given up."""
        if not self.want or self.gave_up is not None:
            return False
        if self.old:
            return bool(self.current) or self.leaving or self.failures is not None
        good = self.history.good_revision
        return good is not None and good != self.target_revision and self.ready < self.want


def view_of(name: str, desired: Desired | None, world: World, now: float) -> View:
    """The view of one instance at one moment; ``now`` is monotonic seconds."""
    replicas = tuple(sorted(world.replicas.get(name, ()), key=lambda replica: replica.facts.handle.serial))
    history = world.history(name)
    demand = world.demand.get(name, Demand())
    target, gave_up = _target(desired, history)
    revision = target.revision() if target is not None else ""
    serving = [r for r in replicas if r.facts.state is ProcessState.RUNNING and r.draining_since is None]
    restarted = history.restart_requested_at
    current = tuple(
        replica
        for replica in serving
        if replica.facts.revision == revision and (restarted is None or replica.facts.started_monotonic >= restarted)
    )
    want, why_not = _wanted(desired, demand, current, now)
    old = tuple(replica for replica in serving if replica not in current)
    again = any(replica.facts.revision == revision for replica in old)
    cause = "restart requested" if again else world.causes.get(name, "its definition changed")
    return View(
        name=name,
        desired=desired,
        history=history,
        demand=demand,
        stop=desired.spec.stop if desired is not None else world.stops.get(name, StopSpec()),
        now=now,
        want=want,
        why_not=why_not,
        target=target,
        target_revision=revision,
        gave_up=gave_up,
        replicas=replicas,
        current=current,
        old=old,
        cause=cause,
    )


def _target(desired: Desired | None, history: History) -> tuple[Launch | None, str | None]:
    """The launch to converge to, and why it is not the declared one."""
    if desired is None or desired.launch is None:
        return None, None
    failures = history.failures.get(desired.revision)
    update = desired.spec.update
    good = history.good
    if failures is None or good is None or good.revision() == desired.revision or not update.rollback:
        return desired.launch, None
    why = given_up(failures, update.attempts) or exhausted(failures, desired.spec.restart)
    if why is not None:
        return good, f"revision {desired.revision} was given up: {why}"
    return desired.launch, None


def _wanted(desired: Desired | None, demand: Demand, current: tuple[Replica, ...], now: float) -> tuple[int, str]:
    """How many replicas, and why none."""
    if desired is None:
        return 0, "not declared any more"
    if desired.launch is None:
        return 0, "declared as external"
    if desired.mode is Mode.DISABLED:
        return 0, "enabled: false"
    if desired.mode is Mode.ENDING:
        return 0, "everything is being stopped"
    if desired.mode is Mode.RUNNING:
        return desired.replicas, ""
    if demand.waiting or demand.in_flight:
        return desired.replicas, ""
    if not current:
        return 0, "nobody asks for it"
    idle = desired.spec.idle_timeout
    starting = any(not replica.health.ready for replica in current)
    if idle is None or starting or now < idle_since(demand, current) + idle:
        return desired.replicas, ""
    return 0, f"idle for {span(idle)}"


def idle_since(demand: Demand, current: tuple[Replica, ...]) -> float:
    """When its last request ended or it became ready, whichever is later; monotonic seconds."""
    ready = max((replica.facts.ready_since or replica.facts.started_monotonic for replica in current), default=0.0)
    return max(ready, demand.last_end or 0.0)
