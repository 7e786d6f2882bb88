"""``llamactl demo``: the whole product in ten seconds on the simulator, told while it really happens; what it claims it has checked."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping

import click

from reconciler.cli.deploy import YAML, plan_lines
from reconciler.cli.failure import Failure
from reconciler.cli.frame import Command, session_of
from reconciler.cli.look import table
from reconciler.cli.pause import pause
from reconciler.cli.root import end_by_signals
from reconciler.cli.stage import Stage
from reconciler.cli.talk import pieces
from reconciler.cli.terminal import colored, out, plain
from reconciler.cli.views import StatusView

FILE = """\
# Three LLM servers on one host. Save this file, and what changed is started, replaced or stopped.
instances:
  writer:                        # talks like a vLLM
    backend_type: simulator
    backend_options:
      model: demo/writer-7b
      personality: vllm
      load-seconds: 0.8
      token-delay-ms: 40
      ttft-ms: 300               # <- edit me: only this instance is replaced
  coder:                         # talks like a llama-server
    backend_type: simulator
    backend_options: { model: demo/coder-3b, personality: llama_cpp, load-seconds: 0.4 }
  helper:                        # talks like an mlx_lm.server
    backend_type: simulator
    backend_options: { model: demo/helper-1b, personality: mlx_lm, load-seconds: 0.6 }
"""
EDIT = ("ttft-ms: 300 ", "ttft-ms: 20  ")
EDITED = "writer"
QUESTION = "Every word of this reply came through the proxy, token by token."


@click.command(cls=Command, short_help="Show the whole thing on the built-in simulator.")
@click.option("--once", is_flag=True, help="End by itself, leaving nothing behind.")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port to listen on; default: a free one.")
@click.pass_context
def demo(ctx: click.Context, once: bool, port: int | None) -> None:
    """Show the whole thing on the built-in simulator: no GPU, no model, no network.

    Starts a daemon in a temporary folder, shows the plan, waits until three servers are ready, streams a reply, edits
    the file and shows that only the edited instance is touched. Then it runs until Ctrl-C.
    """
    end_by_signals(signal.SIGTERM, signal.SIGHUP)
    _title("llamactl demo: three simulated LLM servers, one YAML file")
    stage = Stage(FILE, port, session_of(ctx).environ)
    try:
        with stage:
            before = _start(stage)
            _talk(stage)
            _edit(stage, before)
            if not once:
                _stay(stage)
    except KeyboardInterrupt:
        _say("")
        _say("Stopped; nothing is left behind.")
        if once:
            raise
        return
    _title("done: everything is stopped, the folder is removed")


def _title(text: str) -> None:
    out(click.style(text, bold=True) if colored(sys.stdout) else text)


def _say(text: str) -> None:
    out(plain(text))
    sys.stdout.flush()


def _indent(text: str) -> None:
    out(f"    {text}")


def _start(stage: Stage) -> StatusView:
    _say("")
    _title(f"1. The file  {stage.file}")
    for line in FILE.splitlines():
        _indent(line)
    _say("")
    _title("2. The plan for it, on an empty host")
    from reconciler.app import plan_offline
    from reconciler.cli.answers import Node

    for line in plan_lines(Node(plan_offline(stage.file, {})), color=colored(sys.stdout), steps=False):
        _indent(line)
    _say("")
    _title(f"3. `llamactl up` on {stage.url}: each becomes ready when its own server says so")
    told = _Told()
    status = stage.until("three ready instances", _all_ready, told.see)
    _table(status)
    return status


class _Told:
    """Prints what an instance does when it is something new."""

    def __init__(self, before: StatusView | None = None) -> None:
        known = before.instances.values() if before is not None else ()
        self._last = {view.name: view.brief for view in known}

    def see(self, status: StatusView) -> None:
        """Print what is new."""
        for view in status.instances.values():
            if self._last.get(view.name) != view.brief:
                self._last[view.name] = view.brief
                _indent(f"{view.name}: {view.brief}")
        sys.stdout.flush()


def _all_ready(status: StatusView) -> bool:
    return len(status.instances) == 3 and all(view.current for view in status.instances.values())


def _table(status: StatusView) -> None:
    for line in table(list(status.instances.values()), wide=True, color=colored(sys.stdout)):
        _indent(line)


def _talk(stage: Stage) -> None:
    _say("")
    _title(f"4. A streamed reply of {EDITED}, through the proxy")
    out("    ", end="")
    said = []
    for piece in pieces(stage.client(), EDITED, [{"role": "user", "content": QUESTION}], max_tokens=16):
        said.append(piece)
        out(plain(piece), end="")
        sys.stdout.flush()
    out()
    if not "".join(said).strip():
        raise Failure("the demo went wrong: the reply is empty")


def _edit(stage: Stage, before: StatusView) -> None:
    edited = FILE.replace(*EDIT)
    _say("")
    _title(f"5. An edit: {EDIT[0].strip()} becomes {EDIT[1].strip()}. Its plan:")
    answer = stage.client().ask("POST", "/api/v1/plan", body=edited.encode(), headers=YAML)
    for line in plan_lines(answer, color=colored(sys.stdout)):
        _indent(line)
    _say("")
    _title("6. Saving the file is all it takes")
    old = _pids(before)
    stage.file.write_text(edited, encoding="utf-8")
    told = _Told(before)
    after = stage.until("the edited instance replaced", _replaced(before), told.see)
    _table(after)
    _check(old, _pids(after))
    new = _pids(after)
    _say("")
    _title(
        f"Only {EDITED} has a new process ({_list(old[EDITED])} -> {_list(new[EDITED])}); the others were not touched:"
    )
    for name in new:
        if name != EDITED:
            _indent(f"{name}: {_list(old[name])} -> {_list(new[name])}")


def _pids(status: StatusView) -> Mapping[str, tuple[int, ...]]:
    return {view.name: view.pids for view in status.instances.values()}


def _list(pids: tuple[int, ...]) -> str:
    return "pid " + ",".join(map(str, pids))


def _replaced(before: StatusView) -> Callable[[StatusView], bool]:
    """Whether the edited instance serves from new processes alone."""
    old = before.instances[EDITED]

    def reached(status: StatusView) -> bool:
        view = status.instances.get(EDITED)
        return (
            view is not None
            and view.generation > old.generation
            and view.current
            and not set(view.pids) & set(old.pids)
        )

    return reached


def _check(old: Mapping[str, tuple[int, ...]], new: Mapping[str, tuple[int, ...]]) -> None:
    """What the demo claims, or Failure with what is so instead."""
    if set(old) != set(new):
        raise Failure(f"the demo went wrong: the instances were {sorted(old)} and are {sorted(new)}")
    for name, pids in new.items():
        if (set(pids) & set(old[name]) if name == EDITED else pids != old[name]) or not pids:
            raise Failure(f"the demo went wrong: {name} had {_list(old[name])} and has {_list(pids)}")


def _stay(stage: Stage) -> None:
    _say("")
    _title(f"It runs on at {stage.url} until Ctrl-C. Try:")
    body = '{"model": "writer", "stream": true, "messages": [{"role": "user", "content": "hello there"}]}'
    _indent(f"$EDITOR {stage.file}")
    _indent(f"llamactl --state-dir {stage.state} status --watch")
    _indent(f"curl -N {stage.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")
    sys.stdout.flush()
    while True:
        stage.check_alive()
        pause(0.5)
