"""Carries out a plan. No opinions: one action, one runtime call; what the world refused is planned again in the next pass."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from reconciler.control.events import EventLog
from reconciler.control.histories import Histories
from reconciler.core import history as step
from reconciler.core.contracts import Backend, ExitRecord, Handle, ReplicaFacts, Runtime, StartOrder
from reconciler.core.errors import Conflict, Missing, Terminal, Transient
from reconciler.core.plan import Action, Drain, Forget, Kill, Plan, Start, Stop, describe, instance_of
from reconciler.core.spec import Fleet, StopSpec
from reconciler.host.clock import Clock

log = logging.getLogger("llamactl.execute")

ACTION_DEADLINE_S = 30.0
"""Longest one runtime call may take, seconds: a spawn takes tenths, a forget unlinks some files; more than this is a fault to be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What the executor needs to know beyond the plan, from the same pass."""

    fleet: Fleet
    stops: Mapping[str, StopSpec]
    pinned: frozenset[int]
    """Ports that instances pin: nobody else is given one of them."""


class Executor:
    """Turns actions into runtime calls and their outcome into history."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        backends: Mapping[str, Backend],
        histories: Histories,
        events: EventLog,
        clock: Clock,
        drain: Callable[[Handle], None],
        fault: Callable[[str, Exception], None],
    ) -> None:
        self._runtime = runtime
        self._backends = backends
        self._histories = histories
        self._events = events
        self._clock = clock
        self._drain = drain
        self._fault = fault

    async def execute(self, plan: Plan, facts: Mapping[str, ReplicaFacts], orders: Orders) -> None:
        """Every action of the plan, instances side by side, one instance's in order. ``facts`` is by token."""
        by_instance: dict[str, list[Action]] = {}
        for action in plan.actions:
            by_instance.setdefault(instance_of(action), []).append(action)
        async with asyncio.TaskGroup() as group:
            for name, actions in by_instance.items():
                group.create_task(self._instance(name, actions, facts, orders))

    async def _instance(
        self, name: str, actions: list[Action], facts: Mapping[str, ReplicaFacts], orders: Orders
    ) -> None:
        for action in actions:
            text = describe(action)
            log.info("%s", text, extra={"instance": name})
            if not isinstance(action, Forget):
                self._events.add("action", text, instance=name)
            try:
                async with asyncio.timeout(ACTION_DEADLINE_S):
                    await self._one(action, facts, orders)
            except (Conflict, Missing) as error:
                log.info("%s: the world moved: %s", text, error, extra={"instance": name})
                return
            except (Transient, Terminal, TimeoutError, OSError) as error:
                message = f"cannot carry out '{text}': {str(error) or type(error).__name__}"
                log.warning("%s", message, extra={"instance": name})
                self._events.add("action", message, instance=name)
                if isinstance(action, Start):
                    self._failed_start(action, str(error) or type(error).__name__)
                return
            except Exception as error:  # one instance's defect must not stop the others; it is shown and retried
                log.exception("defect while carrying out '%s'", text, extra={"instance": name})
                self._fault(name, error)
                if isinstance(action, Start):
                    self._failed_start(action, f"internal error: {error!r}")
                return

    def _one(self, action: Action, facts: Mapping[str, ReplicaFacts], orders: Orders) -> Awaitable[None]:
        match action:
            case Start():
                return self._start(action, orders)
            case Drain():
                return self._drain_one(action)
            case Stop():
                return self._runtime.stop(action.handle, asked=action.asked)
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
        used = step.after_start(history, serial=action.serial, port=facts.endpoint.port)
        self._histories.put(action.instance, used)

    def _failed_start(self, action: Start, why: str) -> None:
        now = self._clock.monotonic()
        record = ExitRecord(at=self._clock.now(), monotonic=now, error=f"could not be started: {why}")
        history = self._histories.get(action.instance)
        self._histories.put(
            action.instance,
            step.after_failed_start(history, serial=action.serial, revision=action.revision, record=record, now=now),
        )

    async def _forget(self, action: Forget, facts: Mapping[str, ReplicaFacts]) -> None:
        replica = facts.get(action.handle.token)
        if replica is not None:
            name = action.handle.instance
            history = step.after_end(self._histories.get(name), replica, self._clock.monotonic())
            self._histories.put(name, history)
            self._events.add("exit", f"{action.handle.replica} ended: {action.cause}", instance=name)
        await self._runtime.forget(action.handle)
