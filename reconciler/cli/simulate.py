"""``llamactl simulate``: hands everything to the simulator as it came, so that it can stand in for a server's own program."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.frame import Command


class PassedOn(Command):
    """A command that parses nothing; only its own ``--help``, before any kind, is answered here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words; unknown options, ``--`` and ``--help`` among them belong to the simulator."""
        if args and args[0] in ("-h", "--help"):
            return super().parse_args(ctx, args)
        if not args:
            raise click.UsageError("which server? try one of vllm, llama_cpp, mlx_lm", ctx)
        ctx.params["arguments"] = tuple(args)
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What the usage line says after the name."""
        return ["vllm|llama_cpp|mlx_lm", "[THE SERVER'S ARGUMENTS]..."]


@click.command(cls=PassedOn, short_help="Act like vllm, llama_cpp or mlx_lm, without model or GPU.")
@click.pass_context
def simulate(ctx: click.Context, /, **parameters: Any) -> None:
    """Act like a server, without model or GPU.

    Everything after the kind goes to the simulator as it is: the server's own flags and the simulator's
    (`llamactl simulate vllm --help` lists those). Usable in the place of a program:

    LLAMACTL_VLLM_EXECUTABLE="llamactl simulate vllm"

    The exit code is the simulator's.
    """
    from reconciler.simulator import main

    ctx.exit(main(parameters["arguments"]))
