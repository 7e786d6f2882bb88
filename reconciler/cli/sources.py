"""The file that a command is about: found, read and ready to be sent to a daemon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reconciler.cli.failure import Failure
from reconciler.cli.frame import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One document as it will be sent."""

    path: Path
    data: bytes
    content_hash: str


def read_single(session: Session, file: Path | None) -> Sent:
    """The file by the documented search order; ``-`` is stdin. Rejected when it cannot be read, Failure for a folder."""
    from reconciler.config.source import find_file, read

    if file == Path("-"):
        return _from_stdin()
    path = find_file(file, session.environ)
    source = read(path)
    if path.is_dir():
        raise Failure(
            f"cannot send {path}: it is a folder of files, and a daemon takes one file; "
            "give the daemon the folder with `llamactl up -f` and save files in it, or name one of them"
        )
    return Sent(path=path, data=source.files[0].data, content_hash=source.content_hash)


def _from_stdin() -> Sent:
    import hashlib
    import sys

    from reconciler.config.source import MAX_BYTES

    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Failure(f"cannot use the text on stdin: it is larger than {MAX_BYTES // 1024} KiB, the limit of a file")
    return Sent(path=Path("<stdin>"), data=data, content_hash=hashlib.sha256(data).hexdigest())
