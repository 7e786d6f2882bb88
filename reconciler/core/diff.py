"""The planner: declared against observed, at one moment, gives the plan. Pure: no I/O, no clock, no logging.

Called at every pass of the loop and by ``llamactl plan``. It never plans further than one step: what must happen first becomes a
``Wait``, and the pass after it decides again from what is then true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.contracts import ASKED_FAILED, ASKED_STOP, ASKED_TIMEOUT, ProcessState
from reconciler.core.desired import Desired, Mode
from reconciler.core.lifecycle import (
    STARTING_GRACE_S,
    backoff_delay,
    describe_exit,
    exhausted,
    span,
    was_ready,
)
from reconciler.core.observed import Replica, World
from reconciler.core.plan import Action, Drain, Forget, Kill, Plan, Start, Stop, Wait, WaitFor
from reconciler.core.view import View, idle_since, view_of

LOOK_AGAIN_S = 1.0
"""How soon to look again at something that should change by itself without telling us, seconds."""


def diff(desired: Mapping[str, Desired], world: World, *, now: float, max_parallel_replacements: int = 2) -> Plan:
    """Everything to do now. ``now`` is monotonic seconds; the same inputs in any order give the same plan."""
    names = sorted(set(desired) | {name for name, replicas in world.replicas.items() if replicas})
    views = [view_of(name, desired.get(name), world, now) for name in names]
    busy = sum(1 for view in views if view.replacement_under_way)
    actions: list[Action] = []
    waits: list[Wait] = []
    for view in views:
        free = view.replacement_under_way or busy < max_parallel_replacements
        steps = _InstancePlan(view, may_replace=free)
        steps.decide()
        if steps.began_replacement and not view.replacement_under_way:
            busy += 1
        actions.extend(steps.actions)
        waits.extend(steps.waits)
    return Plan(actions=tuple(actions), waits=tuple(waits))


@dataclass(slots=True)
class _InstancePlan:
    """Collects the steps of one instance; lives for one call of :func:`diff`."""

    view: View
    may_replace: bool
    actions: list[Action] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    ending: set[int] = field(default_factory=set)
    """Serials that this pass already ends."""
    began_replacement: bool = False

    def wait(self, what: WaitFor, reason: str, until: float | None) -> None:
        self.waits.append(Wait(instance=self.view.name, what=what, reason=reason, until=until))

    def decide(self) -> None:
        for replica in self.view.replicas:
            self._tend(replica)
        if any(replica.facts.state is ProcessState.UNKNOWN for replica in self.view.replicas):
            return
        if any(replica.facts.state is ProcessState.EXITED for replica in self.view.replicas):
            return  # the exit must reach the history first: the next pass knows the backoff
        if self.view.want == 0:
            self._empty()
            return
        self._converge()
        self._watch_idle()

    # ---- one replica --------------------------------------------------------------------------------------------

    def _tend(self, replica: Replica) -> None:
        """What follows from the replica's own state, whatever is wanted."""
        match replica.facts.state:
            case ProcessState.EXITED:
                self.actions.append(Forget(handle=replica.facts.handle, cause=describe_exit(replica.facts.exit)))
            case ProcessState.UNKNOWN:
                reason = f"cannot tell what {replica.name} does; looking again"
                self.wait(WaitFor.UNKNOWN, reason, self.view.now + LOOK_AGAIN_S)
            case ProcessState.STOPPING:
                self._tend_stopping(replica)
            case ProcessState.RUNNING:
                if replica.draining_since is not None:
                    self._tend_draining(replica, replica.draining_since)
                elif self.view.desired is not None:
                    self._tend_failing(replica, self.view.desired)

    def _tend_stopping(self, replica: Replica) -> None:
        since = replica.facts.stop_since if replica.facts.stop_since is not None else self.view.now
        grace = self.view.stop.grace if was_ready(replica) else min(self.view.stop.grace, STARTING_GRACE_S)
        deadline = since + grace
        if replica.facts.killed:
            self.wait(WaitFor.STOP, f"until nothing of {replica.name} is left", self.view.now + LOOK_AGAIN_S)
        elif self.view.now >= deadline:
            cause = f"still there {span(grace)} after the stop signal"
            asked = replica.facts.exit.asked if replica.facts.exit else None
            self.actions.append(Kill(handle=replica.facts.handle, asked=asked or ASKED_STOP, cause=cause))
        else:
            self.wait(WaitFor.STOP, f"until {replica.name} has ended", deadline)

    def _tend_draining(self, replica: Replica, since: float) -> None:
        deadline = since + self.view.stop.drain_timeout
        if replica.in_flight == 0:
            self._stop(replica, ASKED_STOP, "drained")
        elif self.view.now >= deadline:
            cause = f"{replica.in_flight} requests still run after {span(self.view.stop.drain_timeout)} of draining"
            self._stop(replica, ASKED_STOP, cause)
        else:
            self.wait(WaitFor.DRAIN, f"until {replica.in_flight} requests on {replica.name} end", deadline)

    def _tend_failing(self, replica: Replica, desired: Desired) -> None:
        probe = desired.spec.probe
        if replica.health.ready or was_ready(replica):
            busy_until = (replica.progress_at or 0.0) + probe.interval * probe.failure_threshold
            if replica.health.failures >= probe.failure_threshold and self.view.now >= busy_until:
                cause = f"no good answer to {replica.health.failures} liveness probes: {replica.health.message}"
                self._stop(replica, ASKED_FAILED, cause)
            return
        deadline = replica.facts.started_monotonic + desired.start_timeout
        if replica.health.hopeless is not None:
            self._stop(replica, ASKED_FAILED, f"will not become ready: {replica.health.hopeless}")
        elif self.view.now >= deadline:
            self._stop(replica, ASKED_TIMEOUT, f"not ready within start_timeout {span(desired.start_timeout)}")
        else:
            self.wait(WaitFor.READY, f"until {replica.name} is ready", deadline)

    def _stop(self, replica: Replica, asked: str, cause: str) -> None:
        self.ending.add(replica.facts.handle.serial)
        self.actions.append(Stop(handle=replica.facts.handle, asked=asked, cause=cause))

    def _drain(self, replica: Replica, cause: str) -> None:
        """Withdraw a serving replica; one that never served is stopped at once."""
        if replica.facts.handle.serial in self.ending:
            return
        if was_ready(replica):
            self.ending.add(replica.facts.handle.serial)
            self.actions.append(Drain(handle=replica.facts.handle, cause=cause))
        else:
            self._stop(replica, ASKED_STOP, cause)

    # ---- the instance -------------------------------------------------------------------------------------------

    def _empty(self) -> None:
        for replica in (*self.view.current, *self.view.old):
            self._drain(replica, self.view.why_not)

    def _converge(self) -> None:
        view = self.view
        if view.gave_up is not None:
            self.wait(WaitFor.EXHAUSTED, f"{view.gave_up}; the last good one stays until the declaration changes", None)
        if len(view.current) > view.want:
            surplus = sorted(view.current, key=lambda r: (r.health.ready, -r.facts.handle.serial))
            for replica in surplus[: len(view.current) - view.want]:
                self._drain(replica, f"replicas is {view.want}")
        if view.old:
            self._replace()
        elif len(view.current) < view.want and self._start_allowed():
            for _ in range(min(view.want - len(view.current), view.want - view.occupied)):
                self._start(self._start_cause())

    def _start_cause(self) -> str:
        view = self.view
        if view.history.good is not None and view.history.good_revision != view.target_revision:
            return view.cause
        return "not running" if view.failures is None else f"attempt {view.failures.count + 1}"

    def _replace(self) -> None:
        """Old replicas beside or before new ones."""
        view = self.view
        for replica in view.old:
            if not was_ready(replica):
                self._drain(replica, view.cause)
        if not self.may_replace:
            self.wait(
                WaitFor.SLOT, "until another instance's replacement is done (server.max_parallel_replacements)", None
            )
            return
        if self._start_first():
            self._replace_start_first()
        else:
            self._replace_stop_first()

    def _start_first(self) -> bool:
        """``auto`` starts the new one first unless both would need the same port."""
        assert self.view.desired is not None
        return self.view.desired.spec.update.strategy != "stop_first" and self._contested_port() is None

    def _contested_port(self) -> int | None:
        """The pinned port that an old replica still has."""
        assert self.view.target is not None
        pinned = self.view.target.port
        return pinned if any(replica.facts.endpoint.port == pinned for replica in self.view.old) else None

    def _serving_old(self) -> list[Replica]:
        """Old replicas this pass has not ended, the ones to let go first in front."""
        remaining = [r for r in self.view.old if r.facts.handle.serial not in self.ending]
        return sorted(remaining, key=lambda r: (r.health.ready, r.facts.handle.serial))

    def _replace_start_first(self) -> None:
        view = self.view
        surplus = len(self._serving_old()) - max(0, view.want - view.ready)
        for replica in self._serving_old()[: max(0, surplus)]:
            self._drain(replica, f"{view.cause}; its successor is ready")
        serving = self._serving_old()
        room = view.want + (1 if serving else 0)
        if len(view.current) < view.want and view.occupied < room and self._start_allowed():
            self.began_replacement = True
            beside = f"start-first, {serving[0].name} serves until it is ready" if serving else "nothing served before"
            self._start(f"{view.cause}; {beside}")

    def _replace_stop_first(self) -> None:
        view = self.view
        if len(view.current) < view.want and view.occupied < view.want:
            if self._start_allowed():
                self._start(f"{view.cause}; stop-first, room was made")
            return
        if view.ready < len(view.current) or view.leaving or self.ending:
            return
        if self._start_allowed():
            self.began_replacement = True
            port = self._contested_port()
            why = f", both need port {port}" if port is not None else ""
            self._drain(self._serving_old()[0], f"{view.cause}; stop-first{why}")

    def _start_allowed(self) -> bool:
        """Whether another start may be tried now; says why not."""
        view = self.view
        assert view.desired is not None
        restart = view.desired.spec.restart
        why = exhausted(view.failures, restart)
        if why is not None:
            self.wait(WaitFor.EXHAUSTED, why, None)
            return False
        if view.failures is None or view.failures.count == 0:
            return True
        at = view.failures.last_at + backoff_delay(view.name, view.failures.count, restart)
        if view.now >= at:
            return True
        self.wait(
            WaitFor.BACKOFF, f"{view.failures.count} failed in a row; attempt {view.failures.count + 1} follows", at
        )
        return False

    def _start(self, cause: str) -> None:
        view = self.view
        assert view.target is not None
        taken = sum(1 for action in self.actions if isinstance(action, Start))
        newest = max((replica.facts.handle.serial for replica in view.replicas), default=0)
        self.actions.append(
            Start(
                instance=view.name,
                serial=max(view.history.next_serial, newest + 1) + taken,
                launch=view.target,
                revision=view.target_revision,
                cause=cause if view.gave_up is None else f"{cause}; {view.gave_up}",
            )
        )

    def _watch_idle(self) -> None:
        view = self.view
        assert view.desired is not None
        idle = view.desired.spec.idle_timeout
        quiet = not view.demand.waiting and not view.demand.in_flight and view.ready == len(view.current)
        if view.desired.mode is Mode.ON_DEMAND and idle is not None and view.current and quiet:
            self.wait(WaitFor.IDLE, f"stops when idle for {span(idle)}", idle_since(view.demand, view.current) + idle)
