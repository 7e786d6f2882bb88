"""The daemon's variables, with key files readable through the same mapping, so that pure code can name a file without opening it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping

log = logging.getLogger("llamactl.keys")

FILE_PREFIX = "file:"
"""``environ["file:/path"]`` is the first line of that file; what a backend's ``api_key: {file: ...}`` asks for."""
LONGEST_KEY = 16 * 1024
"""Bytes of a key file that are read; a key is tens of bytes, a signed token a few thousand."""


class EnvironWithFiles(Mapping[str, str]):
    """``environ``, plus ``file:`` names that are read when asked for; a file that cannot be read is absent, and said in the log."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        if not name.startswith(FILE_PREFIX):
            return self._environ[name]
        path = name.removeprefix(FILE_PREFIX)
        try:
            # non-blocking: a FIFO put there must not stop the daemon
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                first = (file.read(LONGEST_KEY) or b"").partition(b"\n")[0]
            return first.decode("utf-8").strip()
        except (OSError, ValueError) as error:
            log.warning("cannot read the key file %s: %s", path, error)
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)
