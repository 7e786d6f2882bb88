"""Keeps asking every running replica and external endpoint how it is; the answers are facts for the planner, nothing more.

One task per target. Starting replicas are asked often, serving ones every ``probe.interval``; a probe is never counted as use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from reconciler.core.contracts import Backend, Endpoint, Probe, Verdict
from reconciler.core.observed import Health
from reconciler.core.spec import ProbeSpec
from reconciler.host.clock import Clock
from reconciler.host.probe import Answer

log = logging.getLogger("llamactl.probes")

FIRST_LOOK_S = 0.03
"""Pause before the second question to a starting replica, seconds: a simulator or llama-server is up within a few tenths."""
SLOWEST_LOOK_S = 1.0
"""Longest pause between questions to a starting replica: a 20 minute load is noticed within a second of its end."""
SLOWER_BY = 1.3
"""Growth of the pause between questions to a starting replica."""


class Asker(Protocol):
    """Asks one question; the host's ``Prober``, or a scripted one."""

    async def ask(self, endpoint: Endpoint, probe: Probe, *, deadline: float) -> Answer:
        """The answer, at the latest after ``deadline`` seconds; never raises for anything the network does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One target to keep asking."""

    key: str
    backend: Backend
    endpoint: Endpoint
    readiness: Probe
    liveness: Probe
    policy: ProbeSpec
    ready: bool
    """Known to have been ready (adopted): ask the liveness question at once, keep it ready meanwhile."""


class Probes:
    """The set of probe tasks; :meth:`follow` makes it match what is given."""

    def __init__(self, prober: Asker, clock: Clock, *, progress_at: Callable[[str], float | None]) -> None:
        self._prober = prober
        self._clock = clock
        self._progress_at = progress_at
        self._changed: Callable[[], None] = lambda: None
        self._tasks: dict[str, tuple[Asked, asyncio.Task[None]]] = {}
        self._health: dict[str, Health] = {}

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` whenever :meth:`health` would answer differently."""
        self._changed = changed

    def health(self, key: str) -> Health:
        """What is known of a target; not ready before the first answer."""
        return self._health.get(key, Health())

    def asked(self, key: str) -> Asked | None:
        """What a target is asked now; None for one that is not followed."""
        return self._tasks[key][0] if key in self._tasks else None

    def follow(self, wanted: Mapping[str, Asked]) -> None:
        """Ask exactly these from now on."""
        for key in list(self._tasks):
            asked, task = self._tasks[key]
            new = wanted.get(key)
            if new is None:
                task.cancel()
                del self._tasks[key]
                self._health.pop(key, None)
            elif new.endpoint != asked.endpoint:
                task.cancel()  # another place under the same name: nothing is known of it
                self._health[key] = Health(ready=new.ready)
                self._begin(new)
            elif task.done() or new.policy.interval != asked.policy.interval:
                task.cancel()  # it sleeps by the old interval, or a defect ended it
                self._begin(new)
            else:
                self._tasks[key] = (new, task)  # the task reads its questions afresh before each
        for key, new in wanted.items():
            if key not in self._tasks:
                self._health[key] = Health(ready=new.ready)
                self._begin(new)

    async def close(self) -> None:
        """End all tasks."""
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, asked: Asked) -> None:
        task = asyncio.create_task(self._keep_asking(asked.key), name=f"probe {asked.key}")
        self._tasks[asked.key] = (asked, task)
        task.add_done_callback(lambda ended: self._ended(asked.key, ended))

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        """A probe only ends by cancellation or by a defect, a backend's verdict for one: shown as what is known of the target."""
        error = None if task.cancelled() else task.exception()
        if error is None or self._tasks.get(key, (None, None))[1] is not task:
            return
        log.error("defect in the probe of %s; it is asked again", key, exc_info=error)
        self._set(key, replace(self.health(key), message=f"internal error in its probe: {error!r}"))

    async def _keep_asking(self, key: str) -> None:
        pause = FIRST_LOOK_S
        while True:
            asked, _ = self._tasks[key]
            if self.health(key).ready:
                await self._ask_liveness(asked)
                await self._clock.sleep(asked.policy.interval)
                continue
            became_ready = await self._ask_readiness(asked)
            if not became_ready:
                await self._clock.sleep(pause)
                pause = min(pause * SLOWER_BY, SLOWEST_LOOK_S)
            else:
                pause = FIRST_LOOK_S
                await self._clock.sleep(asked.policy.interval)

    async def _ask_readiness(self, asked: Asked) -> bool:
        answer = await self._prober.ask(asked.endpoint, asked.readiness, deadline=asked.policy.timeout)
        before = self.health(asked.key)
        if answer.status is None:
            self._set(asked.key, replace(before, message=answer.error))
            return False
        verdict = asked.backend.judge(answer.status, answer.body)
        message = _message(answer)
        if verdict is Verdict.READY:
            self._set(asked.key, Health(ready=True, message=message))
            return True
        hopeless = message if verdict is Verdict.FAILED else None
        self._set(asked.key, replace(before, hopeless=hopeless, message=message))
        return False

    def _is_alive(self, asked: Asked, status: int, body: bytes) -> bool:
        return status < 400 or asked.backend.judge(status, body) is Verdict.READY

    async def _ask_liveness(self, asked: Asked) -> None:
        answer = await self._prober.ask(asked.endpoint, asked.liveness, deadline=asked.policy.timeout)
        before = self.health(asked.key)
        if answer.status is not None and self._is_alive(asked, answer.status, answer.body):
            self._set(asked.key, Health(ready=True, message=_message(answer)))
            return
        if answer.ours:
            return  # nothing was asked: a model is not ended because the daemon ran out of descriptors
        progress = self._progress_at(asked.key)
        if progress is not None and self._clock.monotonic() - progress < asked.policy.interval + asked.policy.timeout:
            return  # it sends tokens: busy, not hung
        failures = before.failures + 1
        message = answer.error if answer.status is None else _message(answer)
        ready = failures < asked.policy.failure_threshold
        self._set(asked.key, Health(ready=ready, failures=failures, message=message))

    def _set(self, key: str, health: Health) -> None:
        before = self._health.get(key)
        self._health[key] = health
        same = before is not None and replace(before, message="") == replace(health, message="")
        if not same:
            self._changed()


def _message(answer: Answer) -> str:
    text = answer.body[:200].decode("utf-8", "replace").strip()
    return f"HTTP {answer.status}" + (f" {text}" if text and answer.status != 200 else "")
