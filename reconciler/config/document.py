"""The YAML library's home: reading a file strictly into a tree with places, and editing it with comments kept.

This page is the room's front door to YAML; the work is in ``_parse`` (reading) and ``_edit`` (writing), with ``_change``, ``_splice`` and
``_layout`` below it.
"""

from __future__ import annotations

from reconciler.config._edit import add_instances, declares, remove_instance, set_enabled, set_instance, snippet
from reconciler.config._parse import Document, parse

__all__ = [
    "Document",
    "add_instances",
    "declares",
    "parse",
    "remove_instance",
    "set_enabled",
    "set_instance",
    "snippet",
]
