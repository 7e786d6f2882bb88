"""What a replica is started with: everything the process can feel, and the one hash over it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REVISION_LENGTH = 12
"""Hex digits of a revision: 48 bits, far beyond the handful of revisions an instance ever has, short enough to read aloud."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything the process can feel, before port and identity. Its hash is the revision."""

    argv: tuple[str, ...]
    """Executable, subcommand and options; without host, port and keys. May hold ``{host}``/``{port}`` where a backend says so."""
    environment: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    """Only what was declared (backends, then instance); None unsets a variable."""
    inherit_environment: bool | tuple[str, ...] = True
    working_directory: str | None = None
    host: str = "127.0.0.1"
    """Address the backend listens on."""
    port: int | None = None
    """A pinned port; None lets the runtime assign one."""
    backend_type: str = ""
    served_model: str | None = None
    """The name this process wants in a request's ``model``; None leaves the client's value alone. It goes with the launch, not
    with the instance, because an old and a new replica that serve side by side may want different names."""

    def as_json(self) -> dict[str, object]:
        """Plain data with sorted keys, enough to rebuild the launch with :meth:`from_json`."""
        return {
            "argv": list(self.argv),
            "environment": dict(sorted(self.environment.items())),
            "inherit_environment": self.inherit_environment
            if isinstance(self.inherit_environment, bool)
            else list(self.inherit_environment),
            "working_directory": self.working_directory,
            "host": self.host,
            "port": self.port,
            "backend_type": self.backend_type,
            "served_model": self.served_model,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Launch:
        """The launch that :meth:`as_json` described; KeyError or TypeError when it is something else."""
        inherit = data["inherit_environment"]
        return cls(
            argv=tuple(data["argv"]),
            environment=dict(data["environment"]),
            inherit_environment=inherit if isinstance(inherit, bool) else tuple(inherit),
            working_directory=data["working_directory"],
            host=data["host"],
            port=data["port"],
            backend_type=data["backend_type"],
            served_model=data["served_model"],
        )

    def revision(self) -> str:
        """First hex digits of the SHA-256 over everything the process can feel."""
        text = json.dumps(self.as_json(), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:REVISION_LENGTH]
