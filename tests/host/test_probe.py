"""A probe tells the other side's silence from this process's own trouble."""

from __future__ import annotations

import errno
from typing import Any

import aiohttp
import pytest

from reconciler.core.contracts import Endpoint, Probe
from reconciler.host.probe import Prober

HERE = Endpoint(host="127.0.0.1", port=9)


def failing(number: int) -> Any:
    """A request that cannot be made."""

    def request(*_: object, **__: object) -> object:
        raise aiohttp.ClientOSError(number, "no")

    return request


@pytest.mark.parametrize(
    ("number", "ours"),
    [(errno.EMFILE, True), (errno.ENFILE, True), (errno.EADDRNOTAVAIL, True), (errno.ECONNREFUSED, False)],
)
async def test_running_out_of_descriptors_says_nothing_about_a_backend(
    monkeypatch: pytest.MonkeyPatch, number: int, ours: bool
) -> None:
    async with Prober() as prober:
        monkeypatch.setattr(prober._session, "request", failing(number))
        answer = await prober.ask(HERE, Probe(), deadline=1.0)
    assert (answer.status, answer.ours) == (None, ours)
