"""Shared test habits: async tests run on a fresh loop under a deadline, and a test that leaks a task
or a process fails."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from tests.leaks import no_process_left as no_process_left

ASYNC_TEST_DEADLINE_S = 60.0
"""Longest an async test may take, seconds; generous for two busy cores, short enough that a hang is seen."""


async def _run_and_look_for_leaks(function: Any, arguments: dict[str, Any]) -> None:
    before = asyncio.all_tasks()
    async with asyncio.timeout(ASYNC_TEST_DEADLINE_S):
        await function(**arguments)
    await asyncio.sleep(0)
    leaked = [task for task in asyncio.all_tasks() - before if not task.done()]
    assert not leaked, f"the test left tasks behind: {leaked}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests without a plugin."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    asyncio.run(_run_and_look_for_leaks(pyfuncitem.obj, arguments))
    return True
