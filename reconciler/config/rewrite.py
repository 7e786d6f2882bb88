"""One edit of a file on disk, without a daemon: read, change, check, write whole or not at all. For ``parse`` and ``import``.

The daemon's own edits (``control/edits``) share the last step, :func:`replace_file`, with this one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.config import document, source
from reconciler.config.schema import EDITOR_HINT, MODELINE, SCHEMA_NAME
from reconciler.core.errors import Conflict, Problem, Rejected
from reconciler.core.spec import Fleet, OptionValue
from reconciler.host import store

NEW_MODE = 0o644
"""Of a file that is made; one that exists keeps its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What became of the file."""

    created: bool
    changed: bool
    """False when the text was what it should be already: nothing was written."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


def text_of(file: source.SourceFile) -> str:
    """The file's text; Rejected where it is not UTF-8, which an edit would not bring back as it was."""
    try:
        return file.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected(
            Problem(
                message="cannot edit the file: it is not UTF-8",
                hint="edit it by hand, or save it as UTF-8",
                code="CONFIG_NOT_EDITABLE",
                file=file.name,
            )
        ) from error


def editor_lines(path: Path) -> str:
    """What a new file at ``path`` begins with, so that an editor completes and checks it, or says how to get there."""
    return MODELINE if (path.parent / SCHEMA_NAME).is_file() else EDITOR_HINT


def changed(text: str, change: Callable[[str], str], file: str) -> str:
    """The changed text; a refusal is told with the file's name."""
    try:
        return change(text)
    except Rejected as refusal:
        raise Rejected(*(replace(problem, file=file) for problem in refusal.problems)) from None


def replace_file(path: Path, data: bytes, *, mode: int, unchanged: Callable[[], bool] | None) -> None:
    """Write the whole file or nothing, if it still is what the edit began with; a symbolic link stays, its target is replaced.

    ``mode`` is for a new file. ``unchanged`` is asked at the last moment; Conflict when it says no. OSError when it cannot be written.
    """

    def ready() -> None:
        if unchanged is not None and not unchanged():
            raise Conflict(f"{path} was changed by somebody else at the same moment; repeat your change")

    store.write_atomic(path, data, mode, ready=ready)


def rewrite(path: Path, change: Callable[[str], str], *, check: Callable[[source.Source], object]) -> Rewritten:
    """Change the text of one file, or make the file; ``check`` sees the result before it is written and may raise Rejected.

    Rejected also for a file that cannot be read or edited, Conflict when somebody else changed it meanwhile or it is a folder, OSError
    when it cannot be written. In each case the old bytes are there as they were.
    """
    if path.is_dir():
        raise Conflict(f"cannot edit {path}: it is a folder; name the file in it")
    with _one_at_a_time(path):
        created = not os.path.lexists(path)
        old = b"" if created else source.read(path).files[0].data
        others = 0 if created else os.stat(path).st_nlink - 1
        text = text_of(source.SourceFile(name=str(path), data=old))
        new = changed(text, change, str(path))
        data = (editor_lines(path) + new if created else new).encode("utf-8")
        check(source.in_memory(path, {str(path): data}))
        if data == old and not created:
            return Rewritten(created=False, changed=False)
        replace_file(path, data, mode=NEW_MODE, unchanged=lambda: _content(path) == (None if created else old))
    notes = [f"{path} has {others} more hard link{'s' * (others != 1)}, which keep the old text"] if others > 0 else []
    return Rewritten(created=created, changed=True, notes=tuple(notes))


class Taken(Conflict):
    """Names that are to be added are declared already; ``names`` as the file has them."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        super().__init__(f"cannot add to {path}: it declares {', '.join(names)} already")
        self.names = names


def add_instances(
    path: Path, new: Mapping[str, Mapping[str, OptionValue]], *, load: Callable[[source.Source], Fleet]
) -> Rewritten:
    """:func:`rewrite` with instances that the file does not have yet (without regard to case); Taken when it has one of them.

    ``load`` judges the file before and after: it must be valid both times.
    """

    def change(text: str) -> str:
        wanted = {name.lower() for name in new}
        clashes = tuple(name for name in _declared(text, path, load) if name.lower() in wanted)
        if clashes:
            raise Taken(path, clashes)
        return document.add_instances(text, new)

    return rewrite(path, change, check=load)


def _declared(text: str, path: Path, load: Callable[[source.Source], Fleet]) -> tuple[str, ...]:
    """The names in a text; none where there is no document yet."""
    try:
        return tuple(load(source.in_memory(path, {str(path): text.encode("utf-8")})).instances)
    except Rejected as refusal:
        if all(problem.code == "CONFIG_EMPTY" for problem in refusal.problems):
            return ()
        raise


def _content(path: Path) -> bytes | None:
    """What the file holds now; None when there is none, or none that can be read."""
    if not os.path.lexists(path):
        return None
    try:
        return source.read(path).files[0].data
    except Rejected:
        return None


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Keep other edits of ours in the same folder waiting, where its file system has locks; they are held for milliseconds."""
    try:
        folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # no access: reading or writing will say so in better words
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
