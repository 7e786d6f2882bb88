"""The three servers' manners, by the simulator as real processes, through the whole proxy."""

from __future__ import annotations

import json
import signal

import pytest

from tests.server.fakes import FakeControl, route, routes, serving, target
from tests.simulators import running_simulator

KINDS = ["vllm", "llama_cpp", "mlx_lm"]


def events(body: bytes) -> list[str]:
    return [part.removeprefix("data: ") for part in body.decode().split("\n\n") if part.startswith("data: ")]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_and_a_stream_come_through_from_each_server(kind: str) -> None:
    with running_simulator(kind) as simulator:
        control = FakeControl(routes(route("alias", target(simulator.port, model="tiny"))))
        async with serving(control) as server:
            whole = await server.chat("alias", max_tokens=4)
            assert (whole.status, whole.whole) == (200, True)
            assert whole.json()["choices"][0]["message"]["content"].split()[:2] == ["hello", "there"]
            stream = await server.chat("alias", max_tokens=4, stream=True)
            assert (stream.status, stream.whole) == (200, True)
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert events(stream.body)[-1] == "[DONE]"
        assert json.loads(json.dumps(simulator.stats()))["last"]["model"] == "tiny"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_dies_in_a_stream_is_never_shown_as_finished(kind: str) -> None:
    with running_simulator(kind, "--die-mid-stream-after", "3", "--token-delay-ms", "5") as simulator:
        control = FakeControl(routes(route("tiny", target(simulator.port, model="tiny"))))
        async with serving(control) as server:
            answer = await server.chat("tiny", max_tokens=50, stream=True)
    assert answer.status == 200
    assert not answer.whole
    assert b"[DONE]" not in answer.body


@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_server_is_replaced_by_its_neighbour_without_a_failed_request(kind: str) -> None:
    with running_simulator(kind) as one, running_simulator(kind) as two:
        control = FakeControl(routes(route("tiny", target(one.port, model="tiny"), target(two.port, model="tiny"))))
        async with serving(control) as server:
            for _ in range(4):
                assert (await server.chat("tiny", max_tokens=1)).status == 200
            one.signal(signal.SIGKILL)
            one.wait()
            for _ in range(6):
                assert (await server.chat("tiny", max_tokens=1)).status == 200
