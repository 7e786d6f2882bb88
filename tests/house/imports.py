"""Who may import whom: the rooms, the homes of third-party modules, the clock, the pure rooms. Data first, one function per rule.

A rule takes the source and gives back one line per breach, with the place, what is wrong and what to do instead.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping

from tests.house.source import PACKAGE, Import, Module, Source

_BELOW_APP = frozenset({"server", "proxy", "control", "config", "runtimes", "installed", "backends", "host", "core"})
LAYERS: Mapping[str, frozenset[str]] = {
    "": frozenset(),
    "core": frozenset(),
    "backends": frozenset({"core"}),
    "host": frozenset({"core"}),
    "config": frozenset({"host", "core"}),
    "runtimes": frozenset({"host", "core"}),
    "control": frozenset({"config", "host", "core"}),
    "proxy": frozenset({"control", "config", "host", "core"}),
    "server": frozenset({"proxy", "control", "config", "host", "core"}),
    "simulator": frozenset(),
    "installed": frozenset({"config", "backends", "host", "core"}),
    "daemon": _BELOW_APP | {"app"},
    "app": _BELOW_APP | {"daemon"},
    "cli": _BELOW_APP | {"app", "simulator"},
    "__main__": frozenset({"cli"}),
}
"""Each room and the rooms it may import; everyone may import itself and the bare package (its version)."""

HOMES: Mapping[str, tuple[str, ...]] = {
    "aiohttp": ("host/probe.py", "proxy/", "server/", "simulator/", "daemon.py"),
    "click": ("cli/",),
    "jsonschema": ("config/",),
    "msgspec": ("proxy/",),
    "multidict": ("proxy/", "server/", "simulator/"),  # aiohttp's own header type
    "platformdirs": ("host/store.py",),
    "psutil": ("host/", "runtimes/"),
    "pydantic": ("core/", "config/"),
    "rich": ("cli/",),
    "ruamel": ("config/",),
    "uvloop": ("daemon.py",),
    "watchfiles": ("control/watch.py",),
    "yarl": ("proxy/", "server/", "simulator/"),  # aiohttp's own URL type
}
"""Every third-party module the product imports, and the only places that may."""

SHARED_NAMES: Mapping[str, frozenset[str]] = {"pydantic": frozenset({"JsonValue"})}
"""Names that may be imported outside a module's home: they are only types."""

EXTRA_HOMES: Mapping[str, tuple[str, str]] = {
    "runtimes/_folders.py": ("pydantic", "checks the records that shims of other versions wrote"),
    "runtimes/_following.py": ("pydantic", "catches the refusal of such a record"),
}
"""Single files outside the homes, each with its reason."""

CLOCK_HOMES = ("host/clock.py", "runtimes/_shim.py", "simulator/", "cli/")
PURE = ("core", "backends")
PURE_MODULES = frozenset(
    [
        "__future__",
        "abc",
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "difflib",
        "enum",
        "fnmatch",
        "functools",
        "hashlib",
        "heapq",
        "importlib",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "operator",
        "pkgutil",
        "re",
        "shlex",
        "string",
        "sys",
        "types",
        "typing",
        "unicodedata",
        "urllib.parse",
    ]
)
"""Standard modules without effects; importlib and pkgutil read the package's own data, sys gives the interpreter's name."""
_EFFECTS = frozenset({"open", "print", "input", "exec", "eval", "breakpoint", "__import__"})
_CLOCK_CALLS = frozenset({"now", "utcnow", "today"})
_LIGHT = frozenset({"core.errors", "host.clock"})
"""Modules without third-party imports, which an entry point may load at once."""
_DYNAMIC_HOMES = ("backends/__init__.py", "config/importers/__init__.py", "cli/frame.py")


def _inside(module: Module, homes: tuple[str, ...]) -> bool:
    below = module.path.removeprefix(f"{PACKAGE}/")
    return any(below == home or (home.endswith("/") and below.startswith(home)) for home in homes)


def _rooms(one: Import) -> Iterator[str]:
    """The rooms that an import reaches; ``from reconciler import config`` reaches config, a version reaches none."""
    parts = one.module.split(".")
    if parts[0] != PACKAGE:
        return
    if len(parts) > 1:
        yield parts[1]
    elif one.name is not None and one.name in LAYERS:
        yield one.name


def rooms_import_downwards(source: Source) -> Iterator[str]:
    """A room imports only the rooms below it."""
    for module in source.modules:
        if module.room not in LAYERS:
            yield f"{module.path}: room {module.room!r} has no rule; add it to LAYERS and say in ARCHITECTURE.md what it is for"
            continue
        allowed = LAYERS[module.room] | {module.room}
        for one in module.imports:
            for room in _rooms(one):
                if room not in allowed:
                    may = ", ".join(sorted(LAYERS[module.room])) or "nothing of ours"
                    yield f"{module.at(one.line)}: {module.room} must not import {room}; it may import {may}"


def imports_are_absolute(source: Source) -> Iterator[str]:
    """Imports name the whole path."""
    for module in (*source.modules, *source.tests):
        for one in module.imports:
            if one.relative:
                yield f"{module.at(one.line)}: relative import; write the whole path"


def entry_points_import_lazily(source: Source) -> Iterator[str]:
    """The command line and its entry points load a room only when a call needs it, so that start-up stays short."""
    for module in source.modules:
        if module.room not in ("app", "cli"):
            continue
        free = {"", "cli"} if module.room == "cli" else set()
        for one in module.imports:
            if not one.at_top or one.typing_only or one.module.removeprefix(f"{PACKAGE}.") in _LIGHT:
                continue
            for room in _rooms(one):
                if room not in free:
                    yield f"{module.at(one.line)}: {module.room} imports {room} at start; import it in the function that needs it"


def third_party_modules_stay_home(source: Source) -> Iterator[str]:
    """Every third-party module has its declared places and is imported nowhere else."""
    for module in source.modules:
        below = module.path.removeprefix(f"{PACKAGE}/")
        for one in module.imports:
            if one.relative or one.root == PACKAGE or one.root in sys.stdlib_module_names:
                continue
            if one.root not in HOMES:
                yield f"{module.at(one.line)}: {one.root} has no declared home; add it to HOMES and justify it in ARCHITECTURE.md"
                continue
            shared = one.name in SHARED_NAMES.get(one.root, ())
            excepted = EXTRA_HOMES.get(below, ("", ""))[0] == one.root
            if not (shared or excepted or _inside(module, HOMES[one.root])):
                yield f"{module.at(one.line)}: {one.root} may only be imported in {', '.join(HOMES[one.root])}"


def only_the_clock_tells_time(source: Source) -> Iterator[str]:
    """Time is an argument or a ``Clock``; nobody else asks the system."""
    for module in source.modules:
        if _inside(module, CLOCK_HOMES):
            continue
        for one in module.imports:
            if one.module == "time" or (one.module == "datetime" and one.name is None):
                yield f"{module.at(one.line)}: imports {one.module}; take the time as an argument or a Clock (host/clock.py)"
        for node in module.nodes:
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr in _CLOCK_CALLS and owner.split(".")[-1] in ("datetime", "date"):
                yield f"{module.at(node)}: {owner}.{node.func.attr}() reads the clock; take the time as an argument or a Clock"


def pure_rooms_have_no_effects(source: Source) -> Iterator[str]:
    """The deciding rooms have no I/O, no clock, no logging, no chance and no event loop."""
    for module in source.modules:
        if module.room not in PURE:
            continue
        for one in module.imports:
            yield from _impure_import(module, one)
        for node in module.nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _EFFECTS | {"Path"}:
                yield f"{module.at(node)}: {module.room} is pure and must not call {node.func.id}()"
            if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield f"{module.path}:{node.lineno}: {module.room} is pure and must not wait"


def _impure_import(module: Module, one: Import) -> Iterator[str]:
    if one.root not in sys.stdlib_module_names or one.module in PURE_MODULES or one.root in PURE_MODULES:
        return
    if one.module == "pathlib" and one.name in ("PurePath", "PurePosixPath", "Path"):
        return  # a path as a type; calling Path() is a breach of its own
    yield f"{module.at(one.line)}: {module.room} is pure and must not import {one.module}"


def modules_are_imported_by_name(source: Source) -> Iterator[str]:
    """Imports by text would escape these rules, so only the finders of plug-ins and commands have them."""
    for module in source.modules:
        if _inside(module, _DYNAMIC_HOMES):
            continue
        for node in module.nodes:
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
                yield f"{module.at(node)}: imports by text; only {' and '.join(_DYNAMIC_HOMES)} may"
