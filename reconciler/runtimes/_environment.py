"""What a backend finds in its environment, and which file its executable is. Pure but for looking at files on the search path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase

from reconciler.core.contracts import Launch

TOKEN_VARIABLE = "LLAMACTL_TOKEN"
"""Proof of identity that every descendant inherits unless it empties its environment."""

OURS = (
    "LLAMACTL_*",
    "NOTIFY_SOCKET",
    "INVOCATION_ID",
    "LISTEN_*",
    "WATCHDOG_*",
    "JOURNAL_STREAM",
    "CREDENTIALS_DIRECTORY",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "CACHE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "MANAGERPID*",
    "MAINPID",
    "SYSTEMD_*",
    "MEMORY_PRESSURE_*",
    "FDSTORE",
)
"""Variables that speak to the daemon (systemd.exec(5), "environment variables in spawned processes"), never to a backend."""


def is_ours(name: str) -> bool:
    """Whether a variable belongs to the daemon alone."""
    return any(fnmatchcase(name, pattern) for pattern in OURS)


def backend_environment(
    environ: Mapping[str, str], launch: Launch, *, keys: Mapping[str, str], token: str
) -> dict[str, str]:
    """Inherited (narrowed), then declared (None unsets), then the key's variables, then the token."""
    inherit = launch.inherit_environment
    inherited = {
        name: value
        for name, value in environ.items()
        if not is_ours(name) and (inherit if isinstance(inherit, bool) else name in inherit)
    }
    for name, wanted in launch.environment.items():
        if wanted is None:
            inherited.pop(name, None)
        else:
            inherited[name] = wanted
    return {**inherited, **keys, TOKEN_VARIABLE: token}


def find_executable(name: str, *, environment: Mapping[str, str], directory: str) -> str | None:
    """Absolute path of a program: with a slash as seen from ``directory``, else by the environment's ``PATH``; None when not found."""
    if os.sep in name:
        return os.path.join(directory, name)  # exec itself says what is wrong with it
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(directory, folder, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None
