"""Who may call what: keys from the routes snapshot, compared as SHA-256 digests in constant time. Knows nothing of HTTP libraries.

Which keys open what: a management key opens everything; an inference key opens ``/v1`` for its instances and is told 403 elsewhere.
With management keys only, ``/v1`` needs one of them too. With inference keys only, management is not open: it takes the local key
that the daemon makes at each start. With no key at all both are open, which the daemon allows on loopback only.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from reconciler.control.routes import Routes
from reconciler.core.spec import AccessKey
from reconciler.proxy.refusals import Refusal

NEEDS_KEY = "a valid key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`"
"""The same words whatever was wrong with the key."""
WRONG_KIND = "this key opens the inference routes (/v1) only; management needs a management key"


class Area(Enum):
    """What a route needs."""

    INFERENCE = "inference"
    MANAGEMENT = "management"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a caller may do."""

    area: Area
    """``MANAGEMENT`` includes inference."""
    name: str
    """Name of the key, for logs; empty when no key was needed."""
    instances: frozenset[str] | None = None
    """Names this caller may use; None means all."""

    def may_use(self, instance: str) -> bool:
        """Whether requests to this instance are allowed."""
        return self.instances is None or instance in self.instances


def credentials(authorization: Sequence[str], api_key: Sequence[str]) -> list[bytes]:
    """The keys that a request offers, from all its ``Authorization`` and ``X-API-Key`` values; a header sent twice offers none.

    Values are header text as aiohttp decodes it (UTF-8 with surrogate escapes), so any byte may come out again.
    """
    offered = []
    if len(authorization) == 1:
        scheme, _, key = authorization[0].strip().partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            offered.append(key.strip().encode("utf-8", "surrogateescape"))
    if len(api_key) == 1 and api_key[0].strip():
        offered.append(api_key[0].strip().encode("utf-8", "surrogateescape"))
    return offered


def digest(key: bytes) -> bytes:
    """SHA-256: enough for keys of high entropy, and under 1 µs, so that a wrong key costs an attacker as much as us."""
    return hashlib.sha256(key).digest()


class Authorizer:
    """Judges requests against the keys of the snapshot in force, plus the daemon's own local key."""

    def __init__(self, local_key: str | None = None) -> None:
        """``local_key`` is the random management key that command lines of the same user find in the state folder."""
        self._local = AccessKey(name="local", digest=digest(local_key.encode())) if local_key else None

    def judge(self, routes: Routes, area: Area, offered: Sequence[bytes]) -> Grant:
        """The caller's grant; raises Refusal 401 without a valid key and 403 for a valid one of the wrong kind."""
        grant = self._identify(routes, offered)
        if grant is None:
            if not routes.management_keys and not routes.inference_keys:
                return Grant(area=Area.MANAGEMENT, name="")
            raise Refusal(401, NEEDS_KEY, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if area is Area.MANAGEMENT and grant.area is not Area.MANAGEMENT:
            raise Refusal(403, WRONG_KIND, code="wrong_key_kind")
        return grant

    def _identify(self, routes: Routes, offered: Sequence[bytes]) -> Grant | None:
        found: Grant | None = None
        for key in offered:
            given = digest(key)
            # every key is compared, whatever was found: the time taken says nothing about which one fits
            for known in routes.inference_keys:
                if hmac.compare_digest(given, known.digest) and found is None:
                    found = Grant(area=Area.INFERENCE, name=known.name, instances=known.instances)
            for known in (*routes.management_keys, *((self._local,) if self._local else ())):
                if hmac.compare_digest(given, known.digest):
                    found = Grant(area=Area.MANAGEMENT, name=known.name)
        return found
