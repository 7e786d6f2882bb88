"""One HTTP question to a backend, with a deadline. Judging the answer is the backend's business."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from reconciler.core.contracts import Endpoint, Probe

LONGEST_ANSWER = 64 * 1024
"""Bytes of an answer that are read; a health answer is a few words, an error page may be longer."""

_OUR_OWN_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})
_NO_SUCH_ROUTE = (404, 405, 501)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int | None
    """None when nothing that could be read as HTTP came back in time."""
    body: bytes = b""
    error: str = ""
    """Why there is no status, for people."""
    ours: bool = False
    """Nothing was asked: this process ran out of descriptors, ports or memory, which says nothing about the other side."""


class Prober:
    """Asks; holds one client session. Use as an async context manager."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # a connection of its own for each probe: a probe must also notice that nothing can connect any more
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, endpoint: Endpoint, probe: Probe, *, deadline: float) -> Answer:
        """The answer to ``probe``; never raises for anything the network does. ``deadline`` in seconds."""
        answer = await self._once(endpoint, probe, probe.path, deadline)
        if probe.otherwise is not None and answer.status in _NO_SUCH_ROUTE:
            return await self._once(endpoint, probe, probe.otherwise, deadline)
        return answer

    async def _once(self, endpoint: Endpoint, probe: Probe, path: str, deadline: float) -> Answer:
        if self._session is None:
            raise RuntimeError("the prober is not open")
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        if probe.body is not None:
            headers["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(total=probe.timeout if probe.timeout is not None else deadline)
        try:
            async with self._session.request(
                probe.method,
                endpoint.url(path),
                data=probe.body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                body = await response.content.read(LONGEST_ANSWER)
                return Answer(status=response.status, body=body)
        except TimeoutError:
            return Answer(status=None, error=f"no answer within {timeout.total:g}s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            return Answer(status=None, error=str(error) or type(error).__name__, ours=number in _OUR_OWN_TROUBLE)
