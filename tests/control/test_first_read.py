"""The first thing a daemon reads is read as carefully as everything after it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from reconciler import daemon
from reconciler.config import source
from reconciler.control.keeper import Keeper
from reconciler.core.errors import Rejected
from reconciler.host.clock import SystemClock
from tests.control.rooms import BACKENDS, declare


async def test_a_daemon_that_starts_in_the_middle_of_a_save_waits_for_its_end(tmp_path: Path) -> None:
    path, state, clock = tmp_path / "llamactl.yaml", tmp_path / "state", SystemClock()
    state.mkdir()
    whole = declare(**{f"n{number:02}": {"size": number} for number in range(60)})
    path.write_text(whole)
    earlier = Keeper(folder=state, backends=BACKENDS, environ={}, clock=clock)
    content = source.read(path)
    earlier.offer(await earlier.load(content), content, running=(), force=True)
    await earlier.save()

    later = whole.replace("size: 7", "size: 77")
    cut = later.index("  n20")
    with path.open("w", buffering=1) as file:
        file.write(later[:cut])
        file.flush()
        keeper = Keeper(folder=state, backends=BACKENDS, environ={}, clock=clock)
        first = asyncio.create_task(daemon._read_first(keeper, path, clock))
        await asyncio.sleep(0.15)
        assert not first.done(), "a text that ends before the last good one did may be cut"
        file.write(later[cut:])
    read = await first
    assert not isinstance(read, Rejected)
    assert len(read[0].fleet.instances) == 60
    assert read[1].files[0].data.decode() == later
