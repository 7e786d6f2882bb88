"""Which variables of the daemon's environment are the daemon's own, and which must not reach a program that is only looked at.

Names alone decide; nothing here reads or changes an environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from reconciler.core.secrets import is_secret_name

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


def harmless(environ: Mapping[str, str]) -> dict[str, str]:
    """What a program may know that is only asked for its options: nothing of the daemon's, nothing that is named like a secret."""
    return {name: value for name, value in environ.items() if not is_ours(name) and not is_secret_name(name)}
