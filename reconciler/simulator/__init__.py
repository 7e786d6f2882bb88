"""A real program that acts like `vllm serve`, `llama-server` or `mlx_lm.server`, faults by flag included.

It is used by the demo, by the end-to-end tests and to rehearse a user's own file. It stands alone: it is started as a
process and imports nothing else of ours. Run it with `python -m reconciler.simulator KIND ARGS...` or
`llamactl simulate KIND ARGS...`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from reconciler.simulator.flags import KINDS, PROGRAMS, SIMULATOR_FLAGS, USAGE_EXIT, UsageError, help_text, parse

__all__ = ["SIMULATOR_FLAGS", "main"]

VERSIONS = {
    "vllm": "0.32.0",
    "llama_cpp": "version: 9931 (simulator)\nbuilt for a rehearsal, without a model",
    "mlx_lm": "0.32.2",
}
"""What `--version` prints, in each server's own form; the versions whose manner is acted."""


def main(argv: Sequence[str]) -> int:
    """Runs a simulator until it ends, and returns its exit code (2 for a command line that cannot be read).

    `argv` is the kind (vllm, llama_cpp or mlx_lm) and then that server's own arguments with ours among them.
    It may also end the process by a signal, or at once without returning, where the acted server or a fault does so.
    """
    kind = KINDS.get(argv[0]) if argv else None
    if kind is None:
        given = repr(argv[0]) if argv else "nothing"
        print(f"cannot simulate {given}: no such server; try one of vllm, llama_cpp, mlx_lm", file=sys.stderr)
        return USAGE_EXIT
    arguments = list(argv[1:])
    if {"--help", "-h"}.intersection(arguments):
        print(help_text(kind))
        return 0
    if "--version" in arguments or (kind == "vllm" and "-v" in arguments):
        print(VERSIONS[kind])
        return 0
    try:
        options = parse(kind, arguments)
    except UsageError as error:
        print(f"{PROGRAMS[kind]}: error: {error}", file=sys.stderr)
        return error.code
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Imported only now: the HTTP server costs 0.15 s, which a refused command line need not pay.
    from reconciler.simulator.app import run

    return run(options)
