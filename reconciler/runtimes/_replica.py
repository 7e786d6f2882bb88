"""One replica as the runtime holds it in memory, and the facts that follow from it. No effects."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.contracts import Endpoint, ExitRecord, Handle, ProcessState, ReplicaFacts
from reconciler.core.spec import StopSpec
from reconciler.runtimes._folders import ShimExit, ShimState
from reconciler.runtimes._link import Link

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Where a backend that listens on every address is spoken to."""


def exit_record(found: ShimExit, *, same_boot: bool) -> ExitRecord:
    """The exit as the planner reads it; monotonic times of another boot mean nothing and become 0."""
    return ExitRecord(
        code=found.code,
        signal=found.signal,
        at=found.at,
        monotonic=found.monotonic if same_boot else 0.0,
        asked=found.asked,
        error=found.error,
        log_tail=found.log_tail,
    )


def _stop(state: ShimState) -> StopSpec | None:
    if state.stop_signal is None or state.grace is None:
        return None
    return StopSpec(signal=state.stop_signal, grace=state.grace)


@dataclass(slots=True, kw_only=True)
class Replica:
    """Changed by the runtime alone."""

    handle: Handle
    folder: Path
    boot: str
    """This boot, not the replica's."""
    state: ShimState | None = None
    """The last that its shim said; None until it said something believable."""
    api_key: str | None = field(default=None, repr=False)
    adopted: bool = False
    link: Link | None = None
    unknown: bool = False
    """Its shim lives and does not answer, or cannot be looked for."""
    unanswered: int = 0
    """Stop requests in a row that its shim did not answer."""
    lost: ExitRecord | None = None
    """Set when its shim ended without a record and nothing is left."""
    problems: tuple[str, ...] = ()
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once anything is known, that nothing can be known included."""

    @property
    def ended(self) -> bool:
        """Nothing of it is left."""
        return self.lost is not None or (self.state is not None and self.state.gone)

    def process_state(self) -> ProcessState:
        """Running, stopping, exited or unknown."""
        if self.ended:
            return ProcessState.EXITED
        if self.unknown or self.state is None:
            return ProcessState.UNKNOWN
        if self.state.exit is not None or self.state.stop_since is not None or self.state.killed:
            return ProcessState.STOPPING
        return ProcessState.RUNNING

    def port(self) -> int | None:
        """The port it occupies; None when it occupies none."""
        return None if self.ended or self.state is None else self.state.port

    def facts(self) -> ReplicaFacts:
        """What the runtime can say about it now."""
        state = self.state
        log = str(self.folder / "log")
        if state is None:
            return ReplicaFacts(
                handle=self.handle,
                revision="",
                state=self.process_state(),
                endpoint=Endpoint(host="127.0.0.1", port=0),
                exit=self.lost,
                adopted=self.adopted,
                log_path=log,
                degraded=self.problems,
            )
        same_boot = state.boot == self.boot
        found = exit_record(state.exit, same_boot=same_boot) if state.exit is not None else None
        return ReplicaFacts(
            handle=self.handle,
            revision=state.revision,
            state=self.process_state(),
            endpoint=Endpoint(
                host=_EVERY_ADDRESS.get(state.host, state.host),
                port=state.port,
                api_key=self.api_key,
                served_model=state.served_model,
            ),
            pid=None if self.ended else state.pid,
            started_at=state.started_at,
            started_monotonic=state.started_monotonic if same_boot else 0.0,
            stop_since=state.stop_since if same_boot else None,
            killed=state.killed,
            exit=found or self.lost,
            adopted=self.adopted,
            ready_since=state.ready_since if same_boot else None,
            log_path=log,
            stop=_stop(state),
            degraded=(*self.problems, *state.degraded),
            dropped_log_bytes=state.dropped_log_bytes,
        )
