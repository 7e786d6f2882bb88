"""Other tools' files as instances of ours. Each importer is one file here; what it cannot carry over it says, with the place.

A module of this folder that has an ``IMPORTER`` is an importer, found by its file; a helper shared by importers has none.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module

from reconciler.config.importers.contract import Importer


@lru_cache(maxsize=1)
def discover() -> Mapping[str, Importer]:
    """Every importer by its ``kind``, in alphabetical order of the modules."""
    found: dict[str, Importer] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        importer: Importer | None = getattr(import_module(f"{__name__}.{module.name}"), "IMPORTER", None)
        if importer is not None:
            found[importer.kind] = importer
    return found
