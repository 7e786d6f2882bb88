"""Where no route leads: 404, or 405 with what is allowed, and never ``100 Continue`` for a body that nobody will read.

aiohttp's own answer for such requests is the same, but it tells the client to go on first.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from aiohttp.web_urldispatcher import MatchInfoError, SystemRoute, UrlMappingMatchInfo
from yarl import URL


class _Silent(SystemRoute):
    """Raises its 404 or 405 through the middleware like any failure, whatever the request expects."""

    async def handle_expect_header(self, request: web.Request) -> None:
        """The final answer follows at once; the interim one is left out."""


class _NoMatch(MatchInfoError):
    def __init__(self, error: web.HTTPException) -> None:
        super().__init__(error)
        self._route = _Silent(error)


class Nowhere(web.AbstractResource):
    """The last resource of a router: it takes every request that no other takes."""

    def __init__(self, router: web.UrlDispatcher) -> None:
        super().__init__()
        self._router = router

    @property
    def canonical(self) -> str:
        """The root, which the router tries last."""
        return "/"

    async def resolve(self, request: web.Request) -> tuple[UrlMappingMatchInfo | None, set[str]]:
        """Always a match; it carries the error."""
        allowed: set[str] = set()
        for resource in self._router.resources():
            if resource is not self:
                allowed |= (await resource.resolve(request))[1]
        error = web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound()
        return _NoMatch(error), set()

    def url_for(self, **kwargs: str) -> URL:
        """There is no one address."""
        raise RuntimeError("no address leads nowhere")

    def add_prefix(self, prefix: str) -> None:
        """Part of the main application only."""
        raise RuntimeError("cannot be mounted")

    def get_info(self) -> dict[str, object]:  # type: ignore[override]  # nothing to tell
        """Nothing."""
        return {}

    def raw_match(self, path: str) -> bool:
        """No path is its own, so routes that are added later never join it."""
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[web.AbstractRoute]:
        return iter(())
