"""Access keys: from a file, a variable, a digest or plain text to digests. The only place that ever holds a key's text."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.config._problems import Reporter
from reconciler.config._tree import Path as TreePath
from reconciler.config._tree import Place, Table, find, locate
from reconciler.core.spec import AccessKey, AuthSpec, InferenceKeySource, KeySource

SHORT_KEY = 20
"""Characters below which a plain ``value`` gets a warning (the product's rule)."""
_LONGEST_KEY_FILE = 4096
"""Bytes that are looked at; a key is one line."""
_SOURCES = ("file", "env", "sha256", "value")


class _Unusable(Exception):
    """Why a key cannot be had, with its code, and at which of its settings (``on``; None for the key as a whole)."""

    def __init__(
        self, message: str, hint: str | None = None, *, code: str = "CONFIG_INVALID", on: str | None = None
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code
        self.on = on


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReader:
    """Turns the declared keys of one load into digests, reporting what cannot be used."""

    auth: Table
    """The ``auth`` section, for places."""
    base: Path
    """Relative key files are looked up from here: the configuration's own folder."""
    environ: Mapping[str, str]
    reporter: Reporter
    entries: Mapping[str, tuple[int, ...]]
    """By section: where in the written list each of the model's keys stands; those with a wrong shape are not among them."""

    def management(self, spec: AuthSpec) -> tuple[AccessKey, ...]:
        """Keys for the management routes."""
        return self._all("management_keys", spec.management_keys)

    def inference(self, spec: AuthSpec) -> tuple[AccessKey, ...]:
        """Keys for the inference routes."""
        return self._all("inference_keys", spec.inference_keys)

    def _all(self, section: str, sources: tuple[KeySource, ...]) -> tuple[AccessKey, ...]:
        keys: list[AccessKey] = []
        first: dict[bytes, Place] = {}
        for index, source in zip(self.entries.get(section, ()), sources, strict=False):  # no sources: all were refused
            path: TreePath = (section, index)
            place = locate(self.auth, path)
            try:
                digest = self._digest(source, path)
            except _Unusable as why:
                at = (*path, why.on) if why.on else path
                where = locate(self.auth, at)
                self.reporter.error(where, str(why), path=("auth", *at), hint=why.hint, code=why.code)
                continue
            if digest in first:
                hint = f"the first one is at line {first[digest].line}; keep one"
                message = "the same key is listed twice"
                self.reporter.error(place, message, path=("auth", *path), hint=hint, also=(first[digest],))
                continue
            first[digest] = place
            name = source.name or f"{section.removesuffix('_keys')}-{index + 1}"
            instances = source.instances if isinstance(source, InferenceKeySource) else None
            keys.append(
                AccessKey(name=name, digest=digest, instances=None if instances is None else frozenset(instances))
            )
        return tuple(keys)

    def _digest(self, source: KeySource, path: TreePath) -> bytes:
        given = [name for name in _SOURCES if getattr(source, name) is not None]
        if len(given) != 1:
            what = "none of them" if not given else " and ".join(given)
            raise _Unusable(f"a key needs exactly one of {', '.join(_SOURCES)}; found {what}")
        if source.sha256 is not None:
            return bytes.fromhex(source.sha256)
        if source.file is not None:
            key = self._from_file(source.file)
        elif source.env is not None:
            key = self._from_environment(source.env)
        else:
            key = self._plain(source.value or "", path)
        return hashlib.sha256(key).digest()

    def _from_environment(self, name: str) -> bytes:
        value = self.environ.get(name, "")
        if not value:
            raise _Unusable(
                f"the environment variable {name} is not set, so there is no key", "set it, or use file", on="env"
            )
        return value.encode(errors="surrogateescape")

    def _plain(self, value: str, path: TreePath) -> bytes:
        node = find(self.auth, (*path, "value"))
        if len(value) < SHORT_KEY:
            place = node.place if node is not None else None
            message = f"this key has fewer than {SHORT_KEY} characters and could be guessed"
            hint = "make one with `openssl rand -hex 32`, put it in a file of mode 0600 and name that as file"
            self.reporter.warning(place, message, path=("auth", *path, "value"), hint=hint)
        return value.encode()

    def _from_file(self, name: str) -> bytes:
        path = Path(name)
        if name.startswith("~/") and self.environ.get("HOME"):
            path = Path(self.environ["HOME"], name[2:])
        data = read_key_file(self.base / path)
        key = data.split(b"\n", 1)[0].strip()
        if not key:
            raise _Unusable(f"the key file {name} has nothing in its first line", "write the key there", on="file")
        return key


def read_key_file(path: Path) -> bytes:
    """The file's beginning, if nobody but its owner could have put it there and no stranger can read it; else _Unusable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW)
    except (OSError, ValueError) as error:
        if path.is_symlink():
            raise _Unusable(
                f"the key file {path} is a symbolic link", "name the file itself", code="KEYFILE_UNSAFE", on="file"
            ) from None
        why = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
        raise _Unusable(f"cannot read the key file {path}: {why}", on="file") from None
    try:
        facts = os.fstat(descriptor)
        trouble = _unsafe(facts)
        if trouble is not None:
            raise _Unusable(f"the key file {path} {trouble[0]}", trouble[1], code="KEYFILE_UNSAFE", on="file")
        return os.read(descriptor, _LONGEST_KEY_FILE)
    except OSError as error:
        raise _Unusable(f"cannot read the key file {path}: {error.strerror}", on="file") from None
    finally:
        os.close(descriptor)


def _unsafe(facts: os.stat_result) -> tuple[str, str] | None:
    """What is wrong with a key file and its cure; 0400, 0440, 0600 and 0640 pass, as systemd's credentials do."""
    if not stat.S_ISREG(facts.st_mode):
        return "is not a regular file", "name a regular file"
    if facts.st_uid not in (0, os.geteuid()):
        return f"belongs to another user (uid {facts.st_uid})", "chown it to the daemon's user or root"
    mode = stat.S_IMODE(facts.st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {mode:04o})", "chmod 0600 it, and make a new key"
    if mode & stat.S_IROTH:
        return f"can be read by everybody (mode {mode:04o})", "chmod 0600 it, and make a new key"
    return None
