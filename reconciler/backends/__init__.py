"""What runs: one file per backend, pure. A backend is found by its file; nothing else names it.

A module of this folder whose name does not start with an underscore is a backend: it has one ``BACKEND``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module

from reconciler.core.contracts import Backend


@lru_cache(maxsize=1)
def discover() -> Mapping[str, Backend]:
    """Every backend by its ``backend_type``, in alphabetical order; raises TypeError for a file without ``BACKEND``."""
    found: dict[str, Backend] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if module.name.startswith("_") or module.ispkg:
            continue
        backend: Backend | None = getattr(import_module(f"{__name__}.{module.name}"), "BACKEND", None)
        if backend is None:
            raise TypeError(
                f"{__name__}.{module.name} has no BACKEND; a file here without a leading underscore is a backend"
            )
        found[backend.kind] = backend
    return found
