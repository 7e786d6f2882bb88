"""What is: replicas as their runtime, the probes and the proxy see them, and the little that must be remembered about an instance.

A ``World`` is one snapshot, taken before planning and never asked again. Times are seconds of the host's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.core.contracts import ExitRecord, Launch, ReplicaFacts
from reconciler.core.spec import StopSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the probes of one replica said."""

    ready: bool = False
    failures: int = 0
    """Failed liveness probes in a row."""
    hopeless: str | None = None
    """Why it will never become ready, when its own answer said so."""
    message: str = ""
    """The last answer, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica with everything that is known about it."""

    facts: ReplicaFacts
    health: Health = Health()
    in_flight: int = 0
    draining_since: float | None = None
    progress_at: float | None = None
    """When it last sent a byte of an answer through the proxy: a busy server is not a hung one."""

    @property
    def name(self) -> str:
        """``tiny#3``."""
        return self.facts.handle.replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Failed starts and unasked exits of one revision, in a row."""

    count: int
    last_at: float
    timed_out: bool = False
    """One of them was not ready within ``start_timeout``: another try would only take as long again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What outlives the processes of one instance."""

    next_serial: int = 1
    failures: Mapping[str, Failures] = field(default_factory=dict)
    """By revision."""
    restarts: int = 0
    """Unasked exits and failed starts since the instance was declared."""
    last_exit: ExitRecord | None = None
    good: Launch | None = None
    """The last launch that became ready."""
    restart_requested_at: float | None = None
    """Replicas that started before this are to be replaced (``llamactl restart``)."""
    port: int | None = None
    """The port it had last, kept over restarts where possible."""

    @property
    def good_revision(self) -> str | None:
        """Revision of :attr:`good`."""
        return self.good.revision() if self.good is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Use of one instance, as the proxy counts it."""

    waiting: int = 0
    """Requests held until it is ready."""
    in_flight: int = 0
    last_end: float | None = None
    """End of the last request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One snapshot of everything the planner may know."""

    replicas: Mapping[str, tuple[Replica, ...]] = field(default_factory=dict)
    """By instance; exited ones stay until they are forgotten."""
    histories: Mapping[str, History] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)
    stops: Mapping[str, StopSpec] = field(default_factory=dict)
    """Stop budgets of instances that are no longer declared."""
    causes: Mapping[str, str] = field(default_factory=dict)
    """Why an instance's revision differs from what runs, in the user's words (``max_model_len 4096 -> 8192``)."""

    def history(self, name: str) -> History:
        """The instance's history, empty when there is none."""
        return self.histories.get(name) or History()
