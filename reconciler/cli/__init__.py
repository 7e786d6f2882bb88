"""The command line; the entry point imports its commands only when one is called."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``llamactl`` with these arguments (the process's own by default) and return its exit code."""
    from reconciler.cli.root import run

    return run(argv)
