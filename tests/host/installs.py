"""Installed programs to be found, identified and read: virtual environments and console scripts as installers write them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Environment:
    """A folder like a virtual environment, whose python is this one, with one distribution and its console script."""

    def __init__(self, folder: Path, *, name: str = "served", version: str = "1.0") -> None:
        self.folder = folder
        self.name = name
        self.python = folder / "bin" / "python3"
        self.python.parent.mkdir(parents=True)
        self.python.symlink_to(sys.executable)
        self.site = folder / "lib" / "python3.11" / "site-packages"
        self.site.mkdir(parents=True)
        self.program = script(folder / "bin" / name, f"#!{self.python}\nprint('started')\n")
        self.install(version)

    def install(self, version: str) -> None:
        """Put this version in the place of the one that is there."""
        for old in self.site.glob("*.dist-info"):
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        metadata = self.site / f"{self.name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {version}\n")
        (metadata / "RECORD").write_text(f"{self.name}/__init__.py,sha256={version},10\n")

    def find_path(self) -> dict[str, str]:
        """An environment whose PATH leads here."""
        return {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.defpath}"}


def telling(options: list[dict[str, object]], *, version: str = "9.9") -> str:
    """A shell script that prints this as its options, and its version for ``--version``."""
    text = json.dumps({"version": version, "options": options})
    return f'#!/bin/sh\nif [ "$1" = --version ]; then echo version {version}; else printf %s {shlex.quote(text)}; fi\n'
