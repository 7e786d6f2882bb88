"""Changes of the user's file: the HTTP edits and ``apply``. Each is checked whole, written whole or not at all, and then in force.

The file stays the only truth: an edit is a change of its text, comments kept. One change at a time; a text that is not the one the
change was based on is a conflict. A change that has begun is carried through, whether its caller waits for it or not.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.config import document, rewrite, source
from reconciler.control.keeper import Checked, Keeper
from reconciler.core.errors import Conflict, Missing, Problem, Rejected
from reconciler.core.spec import Fleet, OptionValue

NEW_INSTANCES_FILE = "llamactl.yaml"
"""The file of a folder that new instances join."""
NEW_FILE_MODE = 0o600
"""Of that file; the daemon's user alone reads what it makes."""


class PreconditionFailed(Conflict):
    """The file is not the one that the caller has seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """A change that is written."""

    after: Fleet
    etag: str


class Edits:
    """Serialises every change of the file at ``path``. ``accept`` is called under :attr:`lock`, once the file is written."""

    def __init__(
        self,
        *,
        path: Path,
        keeper: Keeper,
        accept: Callable[[Checked, source.Source, bool], None],
        refuse: Callable[[Rejected], None],
    ) -> None:
        """``refuse`` is told, under the lock too, when the file as it is turns out to be invalid."""
        self._path = path
        self._keeper = keeper
        self._accept = accept
        self._refuse = refuse
        self._under_way: set[asyncio.Task[Edited]] = set()
        self.lock = asyncio.Lock()
        """Held while the file and the accepted fleet may differ: whoever reads the file to accept it takes this first."""

    @property
    def is_folder(self) -> bool:
        """A folder of files was given in place of one file."""
        return self._path.is_dir()

    async def text(self) -> tuple[bytes, str]:
        """The file's bytes and their SHA-256; Conflict for a folder."""
        if self.is_folder:
            raise Conflict(f"{self._path} is a folder of files; there is no single text; read the files in it")
        content = await asyncio.to_thread(source.read, self._path)
        data = content.files[0].data
        return data, etag_of(data)

    async def apply(self, data: bytes, *, if_match: str | None) -> Edited:
        """Make ``data`` the file, whatever it stops."""
        if self.is_folder:
            raise Conflict(
                f"{self._path} is a folder of files; apply needs a single file; change the files in the folder"
            )

        async def apply() -> Edited:
            if if_match is None or if_match == "*":
                return await self._write(self._path, data, base=None, force=True)
            seen = await asyncio.to_thread(source.read, self._path)
            if if_match != etag_of(seen.files[0].data):
                raise PreconditionFailed("the file has changed since you read it; read it again and repeat your change")
            return await self._write(self._path, data, base=seen, force=True)

        return await self._carried_through(apply())

    async def create(self, name: str, body: Mapping[str, OptionValue]) -> Edited:
        """Declare a new instance; Conflict when the name is taken."""

        async def create(content: source.Source) -> Edited:
            if _declaring(content, name) is not None:
                raise Conflict(f"instance {name} exists already; use PUT to change it")
            target = self._path / NEW_INSTANCES_FILE if self.is_folder else self._path
            old = next((file.data for file in content.files if Path(file.name).name == target.name), b"")
            return await self._edit(target, old, lambda text: document.set_instance(text, name, body), content)

        return await self._carried_through(self._judged(create))

    async def replace(self, name: str, body: Mapping[str, OptionValue]) -> Edited:
        """Declare an existing instance anew."""
        return await self._change(name, lambda text: document.set_instance(text, name, body))

    async def delete(self, name: str) -> Edited:
        """Take an instance out of the file."""
        return await self._change(name, lambda text: document.remove_instance(text, name))

    async def set_enabled(self, name: str, enabled: bool) -> Edited:
        """Switch an instance on or off."""
        return await self._change(name, lambda text: document.set_enabled(text, name, enabled))

    async def _change(self, name: str, change: Callable[[str], str]) -> Edited:
        async def edit(content: source.Source) -> Edited:
            file = _declaring(content, name)
            if file is None:
                raise Missing(f"there is no instance {name}")
            path = self._path / Path(file.name).name if self.is_folder else self._path
            return await self._edit(path, file.data, change, content)

        return await self._carried_through(self._judged(edit))

    async def _carried_through(self, change: Coroutine[object, object, Edited]) -> Edited:
        """Run a change under the lock, in a task of its own: a client that leaves does not cut it in half."""

        async def locked() -> Edited:
            async with self.lock:
                return await change

        task = asyncio.create_task(locked(), name="edit of the file")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _judged(self, edit: Callable[[source.Source], Coroutine[object, object, Edited]]) -> Edited:
        """An edit of the file as it is. What comes of it must be valid; a file that is invalid before it may be put right by it.

        Rejected tells apart what the edit would do and what was wrong before; the latter is the file's state from then on: tables of
        options may have changed since it was accepted.
        """
        content = await self._base()
        broken: Rejected | None = None
        if not self._is_in_force(content):
            broken = await self._refusal(content)
            if broken is not None and not await asyncio.to_thread(_has_document, content, broken):
                raise broken
        try:
            return await edit(content)
        except Rejected as rejected:
            if all(problem.code == "CONFIG_NOT_EDITABLE" for problem in rejected.problems):
                raise
            if broken is None and (broken := await self._refusal(content)) is None:
                raise
            self._refuse(broken)
            raise _still_invalid(self._path, broken, rejected) from None

    def _is_in_force(self, content: source.Source) -> bool:
        accepted = self._keeper.source
        return accepted is not None and accepted.content_hash == content.content_hash and not self._keeper.problems

    async def _refusal(self, content: source.Source) -> Rejected | None:
        """Why this content cannot be used; None when it can."""
        try:
            await self._keeper.load(content)
        except Rejected as rejected:
            return rejected
        return None

    async def _base(self) -> source.Source:
        """The file as an edit finds it; Conflict while it is held."""
        content = await asyncio.to_thread(source.read, self._path)
        held = self._keeper.held
        if held is not None and held.source.content_hash == content.content_hash:
            raise Conflict(
                f"the file as it is now would stop {', '.join(held.removes)} and is held for a moment; "
                "put it right, or apply it, and repeat your change"
            )
        return content

    async def _edit(self, path: Path, old: bytes, change: Callable[[str], str], base: source.Source) -> Edited:
        text = rewrite.text_of(source.SourceFile(name=str(path), data=old))
        data = (await asyncio.to_thread(rewrite.changed, text, change, str(path))).encode("utf-8")
        return await self._write(path, data, base=base, force=False)

    async def _write(self, path: Path, data: bytes, *, base: source.Source | None, force: bool) -> Edited:
        """Check the whole with this one file changed, then write, then put in force."""
        content = await self._with(path, data, base)
        checked = await self._keeper.load(content)
        try:
            await asyncio.to_thread(self._replace, path, data, base)
        except OSError as error:
            raise Conflict(
                f"cannot write {path}: {error.strerror or error}; "
                "give the daemon's user write access to the file and its folder, or change the file where it comes from"
            ) from error
        self._accept(checked, content, force)
        return Edited(after=checked.fleet, etag=etag_of(data))

    def _replace(self, path: Path, data: bytes, base: source.Source | None) -> None:
        """Write, unless somebody else wrote meanwhile."""
        unchanged = None if base is None else lambda: source.identify(self._path) == base.identity
        rewrite.replace_file(path, data, mode=NEW_FILE_MODE, unchanged=unchanged)

    async def _with(self, path: Path, data: bytes, base: source.Source | None) -> source.Source:
        """The source as it will be once ``data`` stands at ``path``."""
        if not self.is_folder:
            return source.in_memory(self._path, {str(self._path): data})
        content = base if base is not None else await asyncio.to_thread(source.read, self._path)
        files = {file.name: file.data for file in content.files}
        known = [name for name in files if Path(name).name == path.name]
        files[known[0] if known else str(path)] = data
        return source.in_memory(self._path, files, is_folder=True)


def _has_document(content: source.Source, broken: Rejected) -> bool:
    """Whether what is wrong is what the files say, not how: an edit of one that cannot be read could lose what is in it."""
    if any(problem.code != "CONFIG_INVALID" for problem in broken.problems):
        return False
    try:
        _declaring(content, "")
    except Rejected:
        return False
    return True


def _still_invalid(path: Path, broken: Rejected, after: Rejected) -> Rejected:
    """Why an edit of an invalid file is refused: what is wrong with the file, and what the edit would add to that."""
    known = {(problem.path, problem.message) for problem in broken.problems}
    others = [problem for problem in after.problems if (problem.path, problem.message) not in known]
    first = broken.problems[0]
    summary = Problem(
        message="cannot edit the file: it is invalid already, and would be after this edit",
        hint="correct what follows in one go: in the file, or with `llamactl apply`",
        code="CONFIG_INVALID_BEFORE",
        file=first.file or str(path),
        line=first.line,
        column=first.column,
    )
    return Rejected(summary, *broken.problems, *others)


def _declaring(content: source.Source, name: str) -> source.SourceFile | None:
    """The file that declares the instance; a file that is not UTF-8 is looked through all the same."""
    for file in content.files:
        encoding = "utf-16" if file.data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        if document.declares(file.data.decode(encoding, "replace"), name):
            return file
    return None


def etag_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
