"""What a backend finds in its environment, and which file its executable is. Pure but for looking at files on the search path."""

from __future__ import annotations

import os
from collections.abc import Mapping

from reconciler.core.contracts import Launch
from reconciler.host.environment import is_ours

TOKEN_VARIABLE = "LLAMACTL_TOKEN"
"""Proof of identity that every descendant inherits unless it empties its environment."""


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
