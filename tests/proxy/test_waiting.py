"""Requests for an instance that is not ready: held while that helps, refused with reason and time where it does not."""

from __future__ import annotations

import asyncio

import pytest

from reconciler.core.desired import Mode
from reconciler.core.lifecycle import Phase
from tests.proxy.upstreams import upstream
from tests.server.fakes import FakeControl, Server, encoded, route, routes, serving, target


async def until_waiting(server: Server, count: int) -> None:
    async with asyncio.timeout(10):
        while server.control.leases.waiting_for("tiny") != count:  # noqa: ASYNC110  # the book has no event, the loop does without
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("mode", "phase"),
    [
        (Mode.ON_DEMAND, Phase.STOPPED),
        (Mode.ON_DEMAND, Phase.STARTING),
        (Mode.ON_DEMAND, Phase.BACKOFF),
        (Mode.RUNNING, Phase.PENDING),
        (Mode.RUNNING, Phase.STARTING),
        (Mode.RUNNING, Phase.STOPPING),
        (Mode.RUNNING, Phase.UNKNOWN),
    ],
)
async def test_a_request_is_held_until_the_instance_is_ready(mode: Mode, phase: Phase) -> None:
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", mode=mode, phase=phase)))
        woken = []
        control.leases.subscribe(lambda: woken.append(control.leases.demand("tiny").waiting))
        async with serving(control) as server:
            asking = [asyncio.ensure_future(server.chat("tiny")) for _ in range(3)]
            await until_waiting(server, 3)
            assert woken[0] == 1  # this is what starts it
            control.publish(routes(route("tiny", mode=mode, phase=Phase.STARTING)))
            await asyncio.sleep(0)
            assert not backend.seen
            control.publish(routes(route("tiny", target(backend.port), mode=mode)))
            assert [(await one).status for one in asking] == [200, 200, 200]
        assert control.leases.waiting_for("tiny") == 0


@pytest.mark.parametrize(
    ("mode", "phase"),
    [
        (Mode.RUNNING, Phase.BACKOFF),
        (Mode.RUNNING, Phase.FAILED),
        (Mode.RUNNING, Phase.UNREADY),
        (Mode.ON_DEMAND, Phase.FAILED),
        (Mode.DISABLED, Phase.STOPPED),
        (Mode.DISABLED, Phase.STOPPING),
    ],
)
async def test_where_waiting_is_vain_the_answer_is_503_at_once_with_reason_and_time(mode: Mode, phase: Phase) -> None:
    control = FakeControl(routes(route("tiny", mode=mode, phase=phase, reason="it crashed: no such model")))
    async with serving(control) as server:
        answer = await server.chat("tiny")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["message"] == "it crashed: no such model"
    assert control.leases.demand("tiny").last_end is None


async def test_a_failure_while_waiting_ends_the_wait() -> None:
    control = FakeControl(routes(route("tiny", phase=Phase.STARTING, start_wait=300.0)))
    async with serving(control) as server:
        asking = asyncio.ensure_future(server.chat("tiny"))
        await until_waiting(server, 1)
        control.publish(routes(route("tiny", phase=Phase.BACKOFF, reason="exit 1")))
        answer = await asking
        assert (answer.status, answer.json()["error"]["message"]) == (503, "exit 1")
        control.publish(routes(route("tiny", start_wait=300.0)))
        asking = asyncio.ensure_future(server.chat("tiny"))
        await until_waiting(server, 1)
        control.publish(routes())
        removed = await asking
        assert (removed.status, removed.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_wait_has_an_end() -> None:
    control = FakeControl(routes(route("tiny", mode=Mode.ON_DEMAND, start_wait=0.2, reason="it is starting")))
    async with serving(control) as server:
        answer = await server.chat("tiny")
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"]["message"] == "it is starting"
    assert control.leases.waiting_for("tiny") == 0


async def test_more_than_the_queue_holds_are_told_to_come_back() -> None:
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", mode=Mode.ON_DEMAND, queue=2)))
        async with serving(control) as server:
            held = [asyncio.ensure_future(server.chat("tiny")) for _ in range(2)]
            await until_waiting(server, 2)
            refused = await server.chat("tiny")
            assert (refused.status, refused.json()["error"]["type"]) == (503, "server_error")
            assert "retry-after" in refused.headers
            control.publish(routes(route("tiny", target(backend.port), mode=Mode.ON_DEMAND)))
            assert [(await one).status for one in held] == [200, 200]


async def test_a_client_that_leaves_waits_no_longer() -> None:
    control = FakeControl(routes(route("tiny", mode=Mode.ON_DEMAND)))
    async with serving(control) as server:
        async with server.connected() as client:
            await client.send(encoded("POST", "/v1/chat/completions", {"model": "tiny"}))
            await until_waiting(server, 1)
            client.reset()
        await until_waiting(server, 0)


async def test_a_request_goes_from_waiting_to_in_flight_without_a_gap() -> None:
    """Else the planner could see an idle instance between the two, and stop it."""
    async with upstream() as backend:
        control = FakeControl(routes(route("tiny", mode=Mode.ON_DEMAND)))
        async with serving(control) as server:
            asking = asyncio.ensure_future(server.chat("tiny"))
            await until_waiting(server, 1)
            control.publish(routes(route("tiny", target(backend.port), mode=Mode.ON_DEMAND)))
            while not backend.seen:
                demand = control.leases.demand("tiny")
                assert demand.waiting + demand.in_flight == 1
                await asyncio.sleep(0)
            assert (await asking).status == 200
