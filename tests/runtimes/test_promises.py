"""Two daemons of one host never give two backends the same port, however close together they look for one."""

from __future__ import annotations

import asyncio

import pytest

from reconciler.core.contracts import ASKED_STOP
from reconciler.core.errors import Transient
from reconciler.host.clock import SystemClock
from reconciler.runtimes.local import LocalRuntime
from tests.runtimes.conftest import Place, clean_up, ended

SLEEPS = "import time; time.sleep(600)"


def second_runtime(place: Place) -> LocalRuntime:
    """Another daemon's runtime, with a state folder of its own."""
    return LocalRuntime(
        place.folder / "other", clock=SystemClock(), environ=place.environ, working_directory=place.work
    )


async def test_two_daemons_that_look_at_the_same_moment_find_different_ports(place: Place) -> None:
    one, two = place.runtime(), second_runtime(place)
    await one.open()
    await two.open()
    orders = [(runtime, place.order(SLEEPS, instance=f"i{n}")) for n in range(4) for runtime in (one, two)]
    facts = await asyncio.gather(*(runtime.start(order) for runtime, order in orders))
    assert len({fact.endpoint.port for fact in facts}) == len(facts)
    await clean_up(one)
    await clean_up(two)


async def test_a_pinned_port_that_another_daemon_promised_is_refused_and_free_again_with_its_end(place: Place) -> None:
    one, two = place.runtime(), second_runtime(place)
    await one.open()
    await two.open()
    first = await one.start(place.order(SLEEPS))
    port = first.endpoint.port
    with pytest.raises(Transient, match=f"port {port} is promised to a backend of another daemon"):
        await two.start(place.order(SLEEPS, port=port))
    await one.kill(first.handle, asked=ASKED_STOP)
    await ended(one, first.handle)
    again = await two.start(place.order(SLEEPS, serial=2, port=port))
    assert again.endpoint.port == port
    await clean_up(one)
    await clean_up(two)
