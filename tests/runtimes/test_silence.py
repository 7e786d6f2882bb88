"""A supervisor that lives and does not answer: it is ended with everything it owns, and nothing waits for it for ever."""

from __future__ import annotations

import json
import os
import signal

import pytest

from reconciler.core.contracts import ASKED_STOP
from reconciler.core.errors import Transient
from reconciler.runtimes import _link
from tests.runtimes import programs
from tests.runtimes.conftest import Place, alive, ended


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_link, "REQUEST_TIMEOUT_S", 0.2)


async def test_a_silent_supervisor_is_killed_with_its_backend(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.SERVES)
    facts = await runtime.start(order)
    await place.up(order)
    shim = json.loads((place.replica_folder(order) / "state.json").read_text())["shim_pid"]
    os.kill(shim, signal.SIGSTOP)
    await runtime.kill(order.handle, asked=ASKED_STOP)
    last = await ended(runtime, order.handle)
    assert last.exit is not None
    assert "supervisor was lost" in (last.exit.error or "")
    assert facts.pid is not None
    assert not alive(facts.pid)
    await runtime.close()


async def test_a_stop_is_asked_for_twice_before_its_silent_supervisor_is_killed(place: Place) -> None:
    runtime = place.runtime()
    await runtime.open()
    order = place.order(programs.SERVES)
    await runtime.start(order)
    await place.up(order)
    shim = json.loads((place.replica_folder(order) / "state.json").read_text())["shim_pid"]
    os.kill(shim, signal.SIGSTOP)
    with pytest.raises(Transient, match="does not answer"):
        await runtime.stop(order.handle, asked=ASKED_STOP)
    assert alive(shim)
    await runtime.stop(order.handle, asked=ASKED_STOP)
    await ended(runtime, order.handle)
    await runtime.close()
