"""Install the three real servers and tiny models into a cache folder: ``python3 tests/real/install.py [WHAT ...]``.

Idempotent: a finished install is recognised by its stamp and costs milliseconds, an interrupted one is done again,
and two installers at once wait for each other. Standard library only; needs Python 3.11 or later and pip's usual
configuration. What to do is in `recipes.py`, where it goes in `cache.py`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.real.cache import InstallFailed, Slot, default_cache, folder_bytes, say
from tests.real.language_server import LanguageServer
from tests.real.recipe import Recipe
from tests.real.recipes import RECIPES, PythonRecipe, resolve

EXECUTABLES = {
    "LLAMACTL_VLLM_EXECUTABLE": ("vllm", "vllm"),
    "LLAMACTL_LLAMA_EXECUTABLE": ("llama_cpp", "llama-server"),
    "LLAMACTL_MLX_LM_EXECUTABLE": ("mlx_lm", "mlx_lm.server"),
}
"""The daemon's variable for each server: (recipe, product)."""


def is_installed(recipe: Recipe, root: Path) -> bool:
    """Whether a finished install with these pins is there and its products still exist (a venv's python included)."""
    slot = recipe.slot(root)
    return slot.stamp.is_file() and all(path.exists() for path in recipe.products(slot.folder).values())


def product(root: Path, component: str, name: str) -> Path | None:
    """One product of a finished install, or None where it is not installed."""
    recipe = RECIPES[component]()
    return recipe.products(recipe.slot(root).folder)[name] if is_installed(recipe, root) else None


def install(component: str, root: Path) -> None:
    """Install one component, and what it needs, unless it is there already; raises InstallFailed."""
    recipe = RECIPES[component]()
    for needed in recipe.needs:
        install(needed, root)
    ensure(recipe, root)


def ensure(recipe: Recipe, root: Path) -> None:
    """Carry out one recipe unless its finished install is there; raises InstallFailed."""
    slot = recipe.slot(root)
    if not is_installed(recipe, root):
        root.mkdir(parents=True, exist_ok=True)
        with slot.locked():
            if not is_installed(recipe, root):  # another installer may have done it while we waited
                _install_locked(recipe, slot)
                return
    say(f"[{recipe.name}] {recipe.version} is installed in {slot.folder}")


def _install_locked(recipe: Recipe, slot: Slot) -> None:
    began = time.monotonic()
    slot.clear()
    recipe.fill(slot)
    absent = [str(path) for path in recipe.products(slot.folder).values() if not path.exists()]
    if absent:
        raise InstallFailed(f"cannot install {recipe.name}: every step worked but {', '.join(absent)} is not there")
    took, size = time.monotonic() - began, folder_bytes(slot.folder)
    slot.finish({"seconds": round(took, 1), "bytes": size})
    say(f"[{recipe.name}] {recipe.version} installed in {took:.1f} s, {size / 1e6:.0f} MB, in {slot.folder}")


def prune(component: str, root: Path) -> None:
    """Remove this component's folders under other keys (older pins, other interpreters)."""
    slot = RECIPES[component]().slot(root)
    with slot.locked():
        for stale in slot.siblings():
            say(f"[{component}] removing {stale}")
            shutil.rmtree(stale)


def environment_lines(root: Path) -> list[str]:
    """Shell lines that point llamactl and its tests at what is installed."""
    lines = [f"export LLAMACTL_REAL_CACHE={shlex.quote(os.fspath(root))}"]
    for variable, (component, name) in EXECUTABLES.items():
        path = product(root, component, name)
        if path is not None:
            lines.append(f"export {variable}={shlex.quote(os.fspath(path))}")
    for variable, name in (("LLAMACTL_REAL_MODEL", "tiny"), ("LLAMACTL_REAL_GGUF", "tiny.gguf")):
        path = product(root, "models", name)
        if path is not None:
            lines.append(f"export {variable}={shlex.quote(os.fspath(path))}")
    return lines


def relock(component: str, root: Path) -> None:
    """Resolve a component's lock anew; raises InstallFailed for one that has none."""
    recipe = RECIPES[component]()
    log_place = Slot(root, component, recipe.version, "relock")
    log_place.log.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(recipe, PythonRecipe):
        resolve(recipe, log_place)
    elif isinstance(recipe, LanguageServer):
        recipe.relock(log_place)
    else:
        raise InstallFailed(f"cannot relock {component}: it has no lock")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when everything asked for is there, 1 with the reason on stderr otherwise."""
    parser = argparse.ArgumentParser(description="Install the real servers that tests/real drives, on a CPU.")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"any of {', '.join(RECIPES)} (default: all)")
    parser.add_argument(
        "--cache", type=Path, help="cache folder (default: $LLAMACTL_REAL_CACHE, else ~/.cache/llamactl-real)"
    )
    parser.add_argument(
        "--print-env", action="store_true", help="print shell lines for what is installed, install nothing"
    )
    parser.add_argument(
        "--prune", action="store_true", help="afterwards remove installs of the same servers with other pins"
    )
    parser.add_argument("--relock", action="store_true", help="resolve the locks of WHAT anew instead of installing")
    options = parser.parse_args(arguments)
    wrong = [name for name in options.what if name not in RECIPES]
    if wrong:
        parser.error(f"unknown: {', '.join(wrong)}; one of {', '.join(RECIPES)}")
    root = (options.cache or default_cache()).expanduser().resolve()
    if options.print_env:
        sys.stdout.write("\n".join(environment_lines(root)) + "\n")
        return 0
    wanted = [name for name in RECIPES if name in options.what or not options.what]
    try:
        for name in wanted:
            (relock if options.relock else install)(name, root)
            if options.prune:
                prune(name, root)
    except InstallFailed as failure:
        say(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
