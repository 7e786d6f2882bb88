"""``llamactl chat``: a streamed reply, to see that an instance works."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from reconciler.cli.answers import Json, Node, decode
from reconciler.cli.client import Client, json_body, reading
from reconciler.cli.connect import for_inference
from reconciler.cli.failure import Code, Failure, KeyRefused
from reconciler.cli.frame import Command, daemon_options, session_of
from reconciler.cli.streams import server_events
from reconciler.cli.terminal import err, is_terminal, out, plain

START_PATIENCE_S = 900.0
"""How long the first word may take, seconds: a start on demand is allowed 10 minutes by default, and the first token follows it."""
SILENCE_S = 300.0
"""Longest pause between two tokens, seconds."""


@click.command(cls=Command, short_help="Ask an instance something; the reply is streamed.")
@click.argument("name")
@click.argument("text", required=False)
@click.option("--max-tokens", type=click.IntRange(min=1), default=None, help="Longest reply.")
@daemon_options
@click.pass_context
def chat(ctx: click.Context, name: str, text: str | None, max_tokens: int | None) -> None:
    """Ask an instance (its name, an alias or NAME/MODEL) something; the reply is streamed to stdout.

    Without TEXT it is read from stdin; on a terminal that is a conversation, until Ctrl-D.
    The key is LLAMACTL_INFERENCE_KEY, or the management key.
    """
    session = session_of(ctx)
    if text is None and sys.stdin is not None and is_terminal(sys.stdin):
        _converse(for_inference(session), name, max_tokens)
        return
    if text is None and sys.stdin is not None:
        text = sys.stdin.read()
    if not text or not text.strip():
        raise Failure("nothing to ask: give TEXT after the name, or on stdin", Code.USAGE)
    _reply(for_inference(session), name, [{"role": "user", "content": text}], max_tokens)


def _converse(client: Client, name: str, max_tokens: int | None) -> None:
    """Question and answer in turn; the whole conversation is sent each time."""
    messages: list[Json] = []
    while True:
        err("> ", end="")
        line = sys.stdin.readline()
        if not line:
            err()
            return
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.strip()})
        messages.append({"role": "assistant", "content": _reply(client, name, messages, max_tokens)})


def _reply(client: Client, name: str, messages: list[Json], max_tokens: int | None) -> str:
    """Print the reply while it comes, and return it."""
    tame = is_terminal(sys.stdout)
    parts: list[str] = []
    try:
        for piece in pieces(client, name, messages, max_tokens):
            parts.append(piece)
            out(plain(piece) if tame else piece, end="")
            sys.stdout.flush()
    finally:
        if parts and not parts[-1].endswith("\n"):
            out()
    return "".join(parts)


def pieces(client: Client, name: str, messages: list[Json], max_tokens: int | None = None) -> Iterator[str]:
    """The text of the reply, as its tokens come. Failure when the stream ends without saying that it is complete."""
    body: dict[str, Json] = {"model": name, "messages": messages, "stream": True}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    try:
        with client.stream(
            "POST",
            "/v1/chat/completions",
            body=json_body(body),
            headers=headers,
            patience=START_PATIENCE_S,
            silence=SILENCE_S,
        ) as response:
            complete = False
            for event in server_events(response, f"the reply of {name}"):
                if event.data == "[DONE]":
                    with reading("the reply"):
                        response.close()
                    return
                chunk = _chunk(event.data)
                text, finished = _content(chunk)
                complete = complete or finished
                if text:
                    yield text
    except KeyRefused as refused:
        raise KeyRefused(f"{refused.message}, or LLAMACTL_INFERENCE_KEY to one of the inference keys") from None
    if not complete:
        raise Failure(
            f"the reply of {name} broke off before its end; see `llamactl logs {name}` and `llamactl status {name}`"
        )


def _chunk(data: str) -> Node:
    try:
        chunk = Node(decode(data), "the reply")
    except ValueError:
        raise Failure("cannot understand the reply: it holds a chunk that is not JSON") from None
    error = chunk.raw.get("error")
    if error is not None:
        said = Node(error).text("message") if isinstance(error, dict) else str(error)
        raise Failure(f"the reply broke off: {said}")
    return chunk


def _content(chunk: Node) -> tuple[str, bool]:
    """Text of a chunk, and whether it says that the reply is complete."""
    text, finished = "", False
    for choice in chunk.nodes("choices"):
        delta = choice.node("delta")
        text += delta.text("content") if delta is not None else choice.text("text")
        finished = finished or "finish_reason" in choice
    return text, finished
