"""The command line; the entry point imports its commands only when one is called."""

from __future__ import annotations


def main() -> None:
    """Run ``llamactl``."""
    raise SystemExit("not built yet")
