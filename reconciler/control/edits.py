"""Changes of the user's file: the HTTP edits and ``apply``. Each is checked whole, written whole or not at all, and then in force.

The file stays the only truth: an edit is a change of its text, comments kept. One change at a time; a text that is not the one the
change was based on is a conflict.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.config import document, source
from reconciler.control.keeper import Keeper
from reconciler.core.errors import Conflict, Missing, Problem, Rejected
from reconciler.core.spec import Fleet, OptionValue
from reconciler.host import store

NEW_INSTANCES_FILE = "llamactl.yaml"
"""The file of a folder that new instances join."""


class PreconditionFailed(Conflict):
    """The file is not the one that the caller has seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """A change that is written."""

    before: Fleet | None
    after: Fleet
    etag: str


class Edits:
    """Serialises every change of the file at ``path``."""

    def __init__(self, *, path: Path, keeper: Keeper, accept: Callable[[Fleet, source.Source], None]) -> None:
        self._path = path
        self._keeper = keeper
        self._accept = accept
        self._lock = asyncio.Lock()

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
        """Make ``data`` the file."""
        if self.is_folder:
            raise Conflict(
                f"{self._path} is a folder of files; apply needs a single file; change the files in the folder"
            )
        async with self._lock:
            if if_match is not None:
                _, etag = await self.text()
                if if_match not in (etag, "*"):
                    raise PreconditionFailed(
                        "the file has changed since you read it; read it again and repeat your change"
                    )
            return await self._write(self._path, data)

    async def create(self, name: str, body: Mapping[str, OptionValue]) -> Edited:
        """Declare a new instance; Conflict when the name is taken."""
        async with self._lock:
            path = await self._find(name)
            if path is not None:
                raise Conflict(f"instance {name} exists already; use PUT to change it")
            target = self._path / NEW_INSTANCES_FILE if self.is_folder else self._path
            text = target.read_text(encoding="utf-8") if target.exists() else ""
            return await self._write(target, _edit(lambda: document.set_instance(text, name, body)))

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
        async with self._lock:
            path = await self._find(name)
            if path is None:
                raise Missing(f"there is no instance {name}")
            text = path.read_text(encoding="utf-8")
            return await self._write(path, _edit(lambda: change(text)))

    async def _find(self, name: str) -> Path | None:
        """The file that declares the instance."""
        content = await asyncio.to_thread(source.read, self._path)
        await self._keeper.load(content)  # an edit of a file that is broken already would hide the user's own problem
        for file in content.files:
            if document.declares(file.data.decode("utf-8"), name):
                return self._path / Path(file.name).name if self.is_folder else self._path
        return None

    async def _write(self, path: Path, data: bytes) -> Edited:
        """Check the whole with this one file changed, then write, then put in force."""
        content = await self._with(path, data)
        fleet = await self._keeper.load(content)
        before = self._keeper.accepted.fleet if self._keeper.accepted else None
        try:
            await asyncio.to_thread(store.write_atomic, path, data)
        except OSError as error:
            raise Conflict(
                f"cannot write {path}: {error.strerror or error}; "
                "give the daemon's user write access to the file and its folder, or change the file where it comes from"
            ) from error
        self._accept(fleet, content)
        return Edited(before=before, after=fleet, etag=etag_of(data))

    async def _with(self, path: Path, data: bytes) -> source.Source:
        """The source as it will be once ``data`` stands at ``path``."""
        if not self.is_folder:
            return source.in_memory(self._path, {str(self._path): data})
        content = await asyncio.to_thread(source.read, self._path)
        files = {file.name: file.data for file in content.files}
        known = [name for name in files if Path(name).name == path.name]
        files[known[0] if known else str(path)] = data
        return source.in_memory(self._path, files, is_folder=True)


def etag_of(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def _edit(change: Callable[[], str]) -> bytes:
    """The edited text; an editor that cannot handle the document is the caller's problem to know."""
    try:
        return change().encode("utf-8")
    except (KeyError, ValueError) as error:
        raise Rejected(Problem(message=f"cannot edit the file: {error}", hint="edit it by hand")) from error
