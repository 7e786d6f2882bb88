"""Which daemon a command talks to: the one that was named, else the one that holds the state folder of this host."""

from __future__ import annotations

from reconciler.cli.client import Client, Target
from reconciler.cli.failure import Code, Failure, Unreachable
from reconciler.cli.frame import Session
from reconciler.cli.pause import monotonic, pause

ANNOUNCE_PATIENCE_S = 5.0
"""How long a daemon that has its lock but has not said where it listens is waited for, seconds."""


def connect(session: Session) -> Client:
    """A client for management; Unreachable when none was named and none runs here."""
    target = find(session)
    if target is None:
        raise Unreachable(
            f"cannot reach a daemon: none runs here (state folder {session.folder()}) and none was named; "
            "start one with `llamactl up`, or name one with --server or LLAMACTL_SERVER"
        )
    return Client(target)


def find(session: Session) -> Target | None:
    """The daemon that is meant, not yet spoken to; None when none was named and none runs here."""
    named = session.named_server()
    if named is not None:
        return _named(session, named.rstrip("/"))
    from reconciler.host.store import LOCK_NAME, is_locked, read_announcement

    folder = session.folder()
    deadline = monotonic() + ANNOUNCE_PATIENCE_S
    while (announcement := read_announcement(folder)) is None:
        try:
            if not is_locked(folder / LOCK_NAME):
                return None
        except OSError as error:
            raise Unreachable(
                f"cannot look for a daemon in {folder}: {error.strerror}; "
                "run as the user of the daemon, or name it with --server and LLAMACTL_MANAGEMENT_KEY"
            ) from None
        if monotonic() > deadline:
            raise Unreachable(
                f"cannot reach the daemon of {folder}: it runs but does not say where it listens; "
                "try again in a moment, and look at its log"
            )
        pause(0.05)
    return Target(
        url=announcement.url,
        key=announcement.key,
        cure=f"the daemon with pid {announcement.pid} holds {folder}: look at its log",
        local=True,
    )


def _named(session: Session, url: str) -> Target:
    key = key_from(session, "LLAMACTL_MANAGEMENT_KEY")
    if not key:
        from reconciler.host.store import read_announcement

        announcement = read_announcement(session.folder())
        if announcement is not None and announcement.url == url:
            key = announcement.key
    return Target(url=url, key=key, cure="is it running there? check --server and LLAMACTL_SERVER")


def key_from(session: Session, variable: str) -> str:
    """A key from the environment, without the newline that files add; a usage failure when it cannot be a key."""
    key = session.environ.get(variable, "").strip()
    if any(not "!" <= character <= "~" for character in key):
        raise Failure(f"cannot use {variable}: it holds spaces or characters that no key has", Code.USAGE)
    return key


def for_inference(session: Session) -> Client:
    """A client for the OpenAI routes: LLAMACTL_INFERENCE_KEY, else what opens the management routes."""
    target = connect(session).target
    key = key_from(session, "LLAMACTL_INFERENCE_KEY") or target.key
    return Client(Target(url=target.url, key=key, cure=target.cure, local=target.local))
