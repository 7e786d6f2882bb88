"""Installed programs to be found, identified and read: virtual environments and console scripts as installers write them."""

from __future__ import annotations

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
        self.site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        self.site.mkdir(parents=True)
        (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.base_exec_prefix) / 'bin'}\n")
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


HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-c,   --ctx-size N                      size of the prompt context (default: 0, 0 = loaded from model)
-m,    --model FNAME                    model path to load
--host HOST                             ip address to listen (default: 127.0.0.1)
--port PORT                             port to listen (default: 8080)
"""


def llama_server(path: Path, *more: str, version: str = "7000") -> Path:
    """A program that tells its options as llama-server does; ``more`` are further lines of its help. Each run is noted in ``RUNS``."""
    runs = path.with_name(path.name + ".runs")
    text = HELP + "".join(f"{line}\n" for line in more)
    return script(
        path,
        f'#!/bin/sh\necho "$@" >> {shlex.quote(str(runs))}\n'
        f'if [ "$1" = --version ]; then echo "version: {version} (abc)" >&2; exit 0; fi\n'
        f"cat <<'END'\n{text}END\n",
    )


def runs_of(path: Path) -> int:
    """How often such a program was asked for its help."""
    runs = path.with_name(path.name + ".runs")
    return runs.read_text().splitlines().count("--help") if runs.exists() else 0


def mlx_server(folder: Path, *flags: str, version: str = "0.99") -> Environment:
    """An environment with a program that has mlx_lm.server's shape: argparse in ``mlx_lm.server:main``."""
    made = Environment(folder, name="mlx_lm", version=version)
    package = made.site / "mlx_lm"
    package.mkdir()
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
    added = "".join(f"    parser.add_argument({flag!r}, type=int, help='what {flag} does')\n" for flag in flags)
    (package / "server.py").write_text(
        "import argparse\n\ndef main():\n    parser = argparse.ArgumentParser()\n"
        "    parser.add_argument('--model')\n    parser.add_argument('--host')\n"
        f"    parser.add_argument('--port', type=int)\n{added}    parser.parse_args()\n"
    )
    script(made.folder / "bin" / "mlx_lm.server", f"#!{made.python}\nfrom mlx_lm.server import main\nmain()\n")
    return made
