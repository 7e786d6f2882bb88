"""Status of an instance as conditions, derived from the same inputs as the plan. Transition times are carried over by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.core.contracts import ProcessState
from reconciler.core.desired import Desired, Mode
from reconciler.core.lifecycle import Phase, describe_exit, exhausted, given_up, phase_of
from reconciler.core.observed import Health, History, Replica
from reconciler.core.plan import Wait, WaitFor

_OFF = (Mode.DISABLED, Mode.ENDING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One statement about an instance, in the form Kubernetes made common."""

    type: str
    """``Accepted``, ``Ready``, ``Progressing``, ``UpToDate`` or ``Stalled``."""
    status: bool
    reason: str
    """One word in PascalCase, for programs."""
    message: str
    since: float = 0.0
    """Unix time of the last change of ``status``, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything the conditions of one instance follow from."""

    desired: Desired | None
    """None while the last replicas of a removed instance end."""
    history: History
    replicas: Sequence[Replica]
    waits: Sequence[Wait]
    external: Health | None = None
    """Probe of an instance that is never started by us."""

    @property
    def live(self) -> list[Replica]:
        """Replicas of which anything is left."""
        return [replica for replica in self.replicas if replica.facts.state is not ProcessState.EXITED]

    @property
    def ready_count(self) -> int:
        """Replicas that take requests, of any revision."""
        return sum(1 for replica in self.replicas if phase_of(replica) is Phase.READY)

    @property
    def ready(self) -> bool:
        """As many replicas take requests as declared; at least one."""
        if self.desired is None:
            return False
        if self.desired.launch is None:
            return self.desired.mode not in _OFF and self.external is not None and self.external.ready
        return self.ready_count >= self.desired.replicas

    @property
    def up_to_date(self) -> bool:
        """What runs is what is declared, and nothing else runs."""
        if self.desired is None:
            return not self.live
        if self.desired.mode in _OFF:
            return not self.live
        restarted = self.history.restart_requested_at or 0.0
        return all(
            replica.facts.revision == self.desired.revision and replica.facts.started_monotonic >= restarted
            for replica in self.live
        )

    @property
    def idle(self) -> bool:
        """Declared, but not meant to have processes now."""
        if self.desired is None or self.desired.mode in _OFF:
            return True
        return self.desired.mode is Mode.ON_DEMAND and not self.live and not self.waits_for(WaitFor.BACKOFF)

    @property
    def settled(self) -> bool:
        """Nothing more follows from the present declaration; what only answers elsewhere is settled by being declared."""
        if self.desired is not None and self.desired.launch is None:
            return True
        return self.up_to_date and (self.ready or (self.idle and not self.live))

    def waits_for(self, what: WaitFor) -> bool:
        """Whether the plan holds such a wait for this instance."""
        return any(wait.what is what for wait in self.waits)


def phase(situation: Situation) -> Phase:
    """The instance's phase: what its replicas are doing, taken together."""
    if situation.desired is not None and situation.desired.launch is None:
        if situation.desired.mode in _OFF:
            return Phase.STOPPED
        return Phase.READY if situation.ready else Phase.UNREADY
    phases = {phase_of(replica) for replica in situation.live}
    if Phase.UNKNOWN in phases:
        return Phase.UNKNOWN
    if situation.ready:
        return Phase.READY
    for candidate in (Phase.STARTING, Phase.UNREADY, Phase.READY, Phase.DRAINING, Phase.STOPPING):
        if candidate in phases:
            return Phase.UNREADY if candidate is Phase.READY else candidate
    if situation.waits_for(WaitFor.BACKOFF):
        return Phase.BACKOFF
    if situation.waits_for(WaitFor.EXHAUSTED):
        return Phase.FAILED
    return Phase.STOPPED if situation.idle else Phase.PENDING


def conditions(situation: Situation) -> tuple[Condition, ...]:
    """All five, in a fixed order, without transition times."""
    return (
        Condition(type="Accepted", status=True, reason="Valid", message="the declaration was accepted"),
        _ready(situation),
        _progressing(situation),
        _up_to_date(situation),
        _stalled(situation),
    )


def _ready(situation: Situation) -> Condition:
    now = phase(situation)
    desired = situation.desired
    if situation.ready:
        message = f"{situation.ready_count} of {desired.replicas if desired else 0} replicas take requests"
        if desired is not None and desired.launch is None:
            message = "it answers"
        return Condition(type="Ready", status=True, reason="Ready", message=message)
    last = situation.history.last_exit
    if now in (Phase.BACKOFF, Phase.FAILED) and last is not None:
        message = f"last end: {describe_exit(last)}"
    elif situation.external is not None:
        message = situation.external.message or "not probed yet"
    else:
        message = "; ".join(wait.reason for wait in situation.waits) or f"it is {now.value}"
    return Condition(type="Ready", status=False, reason=now.value.capitalize(), message=message)


def _progressing(situation: Situation) -> Condition:
    if situation.settled:
        return Condition(type="Progressing", status=False, reason="Settled", message="nothing is left to do")
    message = "; ".join(wait.reason for wait in situation.waits) or "the next step follows"
    return Condition(type="Progressing", status=True, reason=phase(situation).value.capitalize(), message=message)


def _up_to_date(situation: Situation) -> Condition:
    if situation.up_to_date:
        return Condition(type="UpToDate", status=True, reason="Current", message="what runs is what is declared")
    return Condition(type="UpToDate", status=False, reason="Outdated", message="replicas of another revision are left")


def _stalled(situation: Situation) -> Condition:
    desired = situation.desired
    fine = Condition(type="Stalled", status=False, reason="Moving", message="")
    if desired is None or desired.launch is None or desired.mode in _OFF:
        return fine
    failures = situation.history.failures.get(desired.revision)
    if failures is None or (situation.ready and situation.up_to_date):
        return fine
    why = exhausted(failures, desired.spec.restart)
    if why is None and situation.history.good_revision != desired.revision:
        tried = given_up(failures, desired.spec.update.attempts)
        why = f"revision {desired.revision}: {tried}" if tried is not None else None
    if why is None:
        return fine
    return Condition(
        type="Stalled",
        status=True,
        reason="StartFailed",
        message=f"{why}; last end: {describe_exit(situation.history.last_exit)}",
    )
