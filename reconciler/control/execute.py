"""Carries out a plan. No opinions: one action, one runtime call; what the world refused is planned again in the next pass.

Each instance has its own task, and a pass does not wait long for it: a call that hangs, fails or is broken holds up its own instance
only. An instance whose action has to be planned again and again is paused, longer each time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import assert_never

from reconciler.control.events import EventLog
from reconciler.control.histories import Histories
from reconciler.core import history as step
from reconciler.core.contracts import Backend, ExitRecord, Handle, ReplicaFacts, Runtime, StartOrder
from reconciler.core.errors import Conflict, Missing, Terminal, Transient
from reconciler.core.observed import History
from reconciler.core.plan import Action, Drain, Forget, Kill, Plan, Start, Stop, describe, instance_of
from reconciler.core.spec import Fleet, StopSpec
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.execute")

ACTION_DEADLINE_S = 30.0
"""Longest one runtime call may take, seconds: a spawn takes tenths, a forget unlinks some files; more than this is a fault to be seen."""
PASS_PATIENCE_S = 0.5
"""How long a pass waits for its actions, seconds, so that their outcome is published with it; slower ones go on by themselves."""
FREE_REPEATS = 3
"""How often the same actions may be planned again at once: the runtime may need a moment to show what they did."""
REPEAT_PAUSE_S = 0.1
LONGEST_REPEAT_PAUSE_S = 5.0
"""Pause before the same actions are tried once more after those, doubling between these, seconds."""
FAILED_PAUSE_S = 1.0
LONGEST_FAILED_PAUSE_S = 30.0
"""The same after a failure; a failed start waits for its backoff instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the executor needs to know beyond the plan, from the same pass."""

    fleet: Fleet
    stops: Mapping[str, StopSpec]
    pinned: frozenset[int]
    """Ports that instances pin: nobody else is given one of them."""


class _Outcome(Enum):
    DONE = "done"
    MOVED = "moved"
    """The world was another one: plan again."""
    FAILED = "failed"


@dataclass(slots=True)
class _Try:
    """The last actions of an instance, and when they may be tried again."""

    actions: tuple[Action, ...]
    count: int = 1
    until: float = 0.0


class Executor:
    """Turns actions into runtime calls and their outcome into history. Owns the tasks; :meth:`close` ends them."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        backends: Mapping[str, Backend],
        histories: Histories,
        events: EventLog,
        clock: Clock,
        drain: Callable[[Handle], None],
        wake: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._backends = backends
        self._histories = histories
        self._events = events
        self._clock = clock
        self._drain = drain
        self._wake = wake
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._tries: dict[str, _Try] = {}
        self._faults: dict[str, str] = {}
        self._counted: set[str] = set()

    @property
    def faults(self) -> Mapping[str, str]:
        """Instances whose last actions failed by a defect, with what was seen."""
        return self._faults

    def next_try(self) -> float | None:
        """When the first pause ends, monotonic seconds."""
        return min(
            (one.until for name, one in self._tries.items() if one.until and name not in self._busy), default=None
        )

    async def execute(self, plan: Plan, facts: Mapping[str, ReplicaFacts], orders: Orders) -> bool:
        """Begin the plan's actions, instances side by side, one instance's in order. ``facts`` is by token. True when any began."""
        by_instance: dict[str, list[Action]] = {}
        for action in plan.actions:
            by_instance.setdefault(instance_of(action), []).append(action)
        wanted = by_instance.keys() | self._busy.keys()
        for name in self._tries.keys() - wanted:
            del self._tries[name]
        for name in self._faults.keys() - wanted - {wait.instance for wait in plan.waits}:
            del self._faults[name]  # nothing is to be done for it any more: whatever failed is over
        begun = [
            self._begin(name, tuple(actions), facts, orders)
            for name, actions in by_instance.items()
            if self._may_try(name, tuple(actions))
        ]
        if begun:
            await asyncio.wait(begun, timeout=PASS_PATIENCE_S)
        return bool(begun)

    async def close(self) -> None:
        """End what is under way; a runtime call that was cut off is found again from the facts."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- one instance -------------------------------------------------------------------------------------------

    def _may_try(self, name: str, actions: tuple[Action, ...]) -> bool:
        if name in self._busy:
            return False
        before = self._tries.get(name)
        return before is None or before.actions != actions or self._clock.monotonic() >= before.until

    def _begin(
        self, name: str, actions: tuple[Action, ...], facts: Mapping[str, ReplicaFacts], orders: Orders
    ) -> asyncio.Task[None]:
        before = self._tries.get(name)
        self._tries[name] = _Try(actions, before.count + 1 if before is not None and before.actions == actions else 1)
        task = asyncio.create_task(self._instance(name, actions, facts, orders), name=f"actions of {name}")
        self._busy[name] = task
        task.add_done_callback(lambda _: self._ended(name))
        return task

    def _ended(self, name: str) -> None:
        self._busy.pop(name, None)
        self._wake()

    async def _instance(
        self, name: str, actions: tuple[Action, ...], facts: Mapping[str, ReplicaFacts], orders: Orders
    ) -> None:
        outcome = _Outcome.DONE
        for action in actions:
            text = describe(action)
            log.info("%s", text, extra={"instance": name})
            if not isinstance(action, Forget):
                self._events.add("action", text, instance=name)
            outcome = await self._outcome(name, action, text, facts, orders)
            if outcome is not _Outcome.DONE:
                break
        one = self._tries[name]
        if outcome is _Outcome.FAILED:
            one.until = self._clock.monotonic() + min(FAILED_PAUSE_S * 2.0 ** (one.count - 1), LONGEST_FAILED_PAUSE_S)
        elif one.count > FREE_REPEATS:
            pause = REPEAT_PAUSE_S * 2.0 ** min(one.count - FREE_REPEATS, 10)
            one.until = self._clock.monotonic() + min(pause, LONGEST_REPEAT_PAUSE_S)

    async def _outcome(
        self, name: str, action: Action, text: str, facts: Mapping[str, ReplicaFacts], orders: Orders
    ) -> _Outcome:
        try:
            async with asyncio.timeout(ACTION_DEADLINE_S):
                await self._one(action, facts, orders)
        except (Conflict, Missing) as error:
            log.info("%s: the world moved: %s", text, error, extra={"instance": name})
            if isinstance(action, Start):
                self._use_up(action)
            return _Outcome.MOVED
        except (Transient, Terminal, TimeoutError, OSError) as error:
            why = str(error) or f"no answer within {ACTION_DEADLINE_S:g}s"
            log.warning("cannot carry out '%s': %s", text, why, extra={"instance": name})
            self._events.add("action", f"cannot carry out '{text}': {why}", instance=name)
            if isinstance(action, Start):
                self._failed_start(action, why)
            return _Outcome.FAILED
        except Exception as error:  # one instance's defect must not stop the others; it is shown and tried again
            log.exception("defect while carrying out '%s'", text, extra={"instance": name})
            self._faults[name] = f"internal error in '{text}': {error!r}"
            self._events.add("action", f"cannot carry out '{text}': internal error: {error!r}", instance=name)
            if isinstance(action, Start):
                self._failed_start(action, f"internal error: {error!r}")
            return _Outcome.FAILED
        self._faults.pop(name, None)
        return _Outcome.DONE

    def _one(self, action: Action, facts: Mapping[str, ReplicaFacts], orders: Orders) -> Awaitable[None]:
        match action:
            case Start():
                return self._start(action, orders)
            case Drain():
                return self._drain_one(action)
            case Stop():
                stop = orders.stops.get(action.handle.instance)  # as declared now, not as it was when it started
                signal = stop.signal if stop is not None else None
                return self._runtime.stop(action.handle, asked=action.asked, signal=signal)
            case Kill():
                return self._runtime.kill(action.handle, asked=action.asked)
            case Forget():
                return self._forget(action, facts)
            case _:
                assert_never(action)

    async def _drain_one(self, action: Drain) -> None:
        self._drain(action.handle)

    async def _start(self, action: Start, orders: Orders) -> None:
        backend = self._backends[action.launch.backend_type]
        history = self._histories.get(action.instance)
        api_key = secrets.token_hex(24)
        launch = action.launch
        order = StartOrder(
            handle=Handle(instance=action.instance, serial=action.serial, token=secrets.token_hex(16)),
            launch=launch,
            revision=action.revision,
            command=lambda host, port: backend.command(launch, host=host, port=port),
            api_key=api_key,
            key_environment=backend.key_environment(api_key),
            ports=orders.fleet.server.ports(),
            preferred_port=history.port,
            avoid_ports=orders.pinned | {orders.fleet.server.port},
            stop=orders.stops.get(action.instance, StopSpec()),
            orphan_ttl=orders.fleet.server.orphan_ttl,
        )
        facts = await self._runtime.start(order)
        self._change(action.instance, lambda now: step.after_start(now, serial=action.serial, port=facts.endpoint.port))

    def _change(self, name: str, change: Callable[[History], History]) -> None:
        """Take the history as it is now, which may not be the one from before an await."""
        self._histories.put(name, change(self._histories.get(name)))

    def _use_up(self, action: Start) -> None:
        """The serial is taken: the next attempt needs another one."""
        self._change(action.instance, lambda now: replace(now, next_serial=max(now.next_serial, action.serial + 1)))

    def _failed_start(self, action: Start, why: str) -> None:
        at = self._clock.monotonic()
        record = ExitRecord(at=self._clock.now(), monotonic=at, error=f"could not be started: {why}")
        self._change(
            action.instance,
            lambda now: step.after_failed_start(
                now, serial=action.serial, revision=action.revision, record=record, now=at
            ),
        )

    async def _forget(self, action: Forget, facts: Mapping[str, ReplicaFacts]) -> None:
        replica = facts.get(action.handle.token)
        if replica is not None and not self._is_counted(replica):
            name = action.handle.instance
            now = self._clock.monotonic()
            self._counted.add(action.handle.token)
            self._change(name, lambda history: step.after_end(history, replica, now))
            self._events.add("exit", f"{action.handle.replica} ended: {action.cause}", instance=name)
        if replica is not None:
            await self._histories.save(action.handle.instance)  # before its own record goes: an end is never lost
        await self._runtime.forget(action.handle)
        self._counted.discard(action.handle.token)

    def _is_counted(self, replica: ReplicaFacts) -> bool:
        """Whether this end is in the history already, from an attempt to forget it that failed, of this daemon or the one before."""
        last = self._histories.get(replica.handle.instance).last_exit
        return replica.handle.token in self._counted or (last is not None and last == replica.exit)
