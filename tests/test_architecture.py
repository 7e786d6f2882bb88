"""The house keeps its own rules: every rule of `tests/house` holds for this repository, and each of them is able to fail."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.house import habits, imports
from tests.house.source import Source, read_source

ROOT = Path(__file__).resolve().parents[1]
Rule = Callable[[Source], Iterator[str]]
RULES: tuple[Rule, ...] = (
    imports.rooms_import_downwards,
    imports.imports_are_absolute,
    imports.entry_points_import_lazily,
    imports.third_party_modules_stay_home,
    imports.only_the_clock_tells_time,
    imports.pure_rooms_have_no_effects,
    imports.modules_are_imported_by_name,
    habits.files_stay_short,
    habits.modules_say_what_they_are,
    habits.public_names_are_documented,
    habits.exceptions_name_rule_and_reason,
    habits.no_switch_over_kinds,
    habits.nothing_is_left_undone,
    habits.no_registry_is_named,
    habits.files_speak_of_the_project_alone,
)
DOC = '"""What it is."""\n'


@pytest.fixture(scope="module")
def repository() -> Source:
    """This very repository."""
    return read_source(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rule(rule: Rule, repository: Source) -> None:
    breaches = list(rule(repository))
    assert not breaches, f"{rule.__doc__}\n" + "\n".join(breaches)


def test_the_house_is_what_was_read(repository: Source) -> None:
    assert {"core", "config", "control", "proxy", "server", "runtimes", "backends"} <= {
        m.room for m in repository.modules
    }
    assert {"vllm", "llama_cpp", "mlx_lm", "simulator", "custom", "external"} == repository.kinds
    assert "tests/test_architecture.py" in {module.path for module in repository.tests}
    assert "README.md" in {path for path, _ in repository.texts}


def test_every_rule_of_the_house_is_applied() -> None:
    written = {
        name
        for module in (imports, habits)
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    }
    assert written == {rule.__name__ for rule in RULES}


def test_every_declared_home_and_exception_is_used(repository: Source) -> None:
    used = {one.root for module in repository.modules for one in module.imports}
    assert not set(imports.HOMES) - used, "remove the homes of modules that nobody imports"
    paths = {module.path for module in (*repository.modules, *repository.tests)}
    named = {f"reconciler/{path}" for path in imports.EXTRA_HOMES} | set(habits.KIND_EXCEPTIONS) | set(habits.LONGER)
    assert not named - paths, "remove the exceptions for files that are gone"


def test_rooms_have_no_import_cycle() -> None:
    order: list[str] = []
    rest = {room: set(below) for room, below in imports.LAYERS.items()}
    rest["app"] -= {"daemon"}  # the one pair: app enters the daemon inside a function
    while rest:
        free = sorted(room for room, below in rest.items() if not below - set(order))
        assert free, f"these rooms import each other: {sorted(rest)}"
        order += free
        for room in free:
            del rest[room]
    assert order[0] == ""
    assert order.index("core") < order.index("control") < order.index("server") < order.index("cli")


LONG = DOC + "x = 1\n" * habits.LONGEST
JOINED = (
    "".join
)  # words that the house forbids are put together here, or this file would breach the rules that it tests
BREACHES: tuple[tuple[Rule, Mapping[str, str], str], ...] = (
    (
        imports.rooms_import_downwards,
        {"core/a.py": "import reconciler.host.clock"},
        "core/a.py:1: core must not import host",
    ),
    (
        imports.rooms_import_downwards,
        {"control/a.py": "from reconciler import backends"},
        "control must not import backends",
    ),
    (
        imports.rooms_import_downwards,
        {"simulator/a.py": "from reconciler.core.spec import X"},
        "it may import nothing of ours",
    ),
    (
        imports.rooms_import_downwards,
        {"proxy/a.py": "def f():\n  from reconciler.server import x"},
        "a.py:2: proxy must not import server",
    ),
    (imports.rooms_import_downwards, {"attic/a.py": ""}, "room 'attic' has no rule"),
    (imports.imports_are_absolute, {"core/a.py": "from . import b"}, "core/a.py:1: relative import"),
    (
        imports.entry_points_import_lazily,
        {"cli/a.py": "from reconciler.config import load"},
        "cli imports config at start",
    ),
    (imports.entry_points_import_lazily, {"app.py": "import reconciler.backends"}, "app imports backends at start"),
    (
        imports.third_party_modules_stay_home,
        {"control/a.py": "import aiohttp.web"},
        "aiohttp may only be imported in host/probe.py",
    ),
    (
        imports.third_party_modules_stay_home,
        {"core/a.py": "from ruamel.yaml import YAML"},
        "ruamel may only be imported in config/",
    ),
    (imports.third_party_modules_stay_home, {"proxy/a.py": "from pydantic import BaseModel"}, "pydantic may only be"),
    (imports.third_party_modules_stay_home, {"cli/a.py": "import requests"}, "requests has no declared home"),
    (imports.only_the_clock_tells_time, {"control/a.py": "from time import monotonic"}, "imports time"),
    (imports.only_the_clock_tells_time, {"server/a.py": "x = datetime.now(tz=UTC)"}, "datetime.now() reads the clock"),
    (
        imports.only_the_clock_tells_time,
        {"host/b.py": "import datetime as d\nx = datetime.date.today()"},
        "date.today() reads",
    ),
    (imports.pure_rooms_have_no_effects, {"core/a.py": "import asyncio"}, "core is pure and must not import asyncio"),
    (
        imports.pure_rooms_have_no_effects,
        {"backends/a.py": "import os.path"},
        "backends is pure and must not import os.path",
    ),
    (imports.pure_rooms_have_no_effects, {"core/a.py": "import logging"}, "must not import logging"),
    (imports.pure_rooms_have_no_effects, {"core/a.py": "import random"}, "must not import random"),
    (
        imports.pure_rooms_have_no_effects,
        {"core/a.py": "from urllib.request import urlopen"},
        "must not import urllib.request",
    ),
    (imports.pure_rooms_have_no_effects, {"core/a.py": "open('x')"}, "must not call open()"),
    (
        imports.pure_rooms_have_no_effects,
        {"core/a.py": "from pathlib import Path\nPath('x')"},
        "a.py:2: core is pure and must not call Path()",
    ),
    (
        imports.pure_rooms_have_no_effects,
        {"core/a.py": "async def f(x):\n  await x"},
        "a.py:2: core is pure and must not wait",
    ),
    (imports.modules_are_imported_by_name, {"control/a.py": "importlib.import_module('x')"}, "imports by text"),
    (habits.files_stay_short, {"core/a.py": LONG}, f"core/a.py: {habits.LONGEST + 1} lines; split it"),
    (habits.files_stay_short, {"runtimes/_shim.py": DOC}, "needs no exception any more"),
    (habits.modules_say_what_they_are, {"core/a.py": "x = 1"}, "core/a.py:1: no docstring"),
    (habits.modules_say_what_they_are, {"core/__init__.py": ""}, "core/__init__.py:1: no docstring"),
    (habits.public_names_are_documented, {"core/a.py": "def f(): ..."}, "a.py:1: f is public"),
    (habits.public_names_are_documented, {"core/a.py": f"class A:\n  {DOC}  def f(self): ..."}, "A.f is public"),
    (
        habits.public_names_are_documented,
        {"core/a.py": f"class A:\n  {DOC}class B(A):\n  {DOC}  async def g(self): ..."},
        "B.g is",
    ),
    (habits.exceptions_name_rule_and_reason, {"core/a.py": JOINED(["x = 1  # no", "qa"])}, "ignores every rule"),
    (habits.exceptions_name_rule_and_reason, {"core/a.py": JOINED(["x = 1  # no", "qa: E501"])}, "without a reason"),
    (
        habits.exceptions_name_rule_and_reason,
        {"core/a.py": JOINED(["x = 1  # type", ": ignore"])},
        "ignores every rule",
    ),
    (
        habits.exceptions_name_rule_and_reason,
        {"core/a.py": JOINED(["x = 1  # type", ": ignore[misc]  # so"])},
        "without a reason",
    ),
    (
        habits.no_switch_over_kinds,
        {"control/a.py": "x = kind == 'vllm'", "backends/vllm.py": ""},
        "names the backend 'vllm'",
    ),
    (habits.nothing_is_left_undone, {"core/a.py": JOINED(["# TO", "DO: later"])}, "marks work as not done"),
    (habits.no_registry_is_named, {"core/a.py": JOINED(["# https://py", "pi.org/x"])}, "names a package registry"),
    (
        habits.files_speak_of_the_project_alone,
        {"core/a.py": JOINED(["# /wo", "rk/x"])},
        "speaks of somebody's workplace",
    ),
)


@pytest.mark.parametrize(
    ("rule", "files", "message"), BREACHES, ids=[f"{r.__name__}-{n}" for n, (r, _, _) in enumerate(BREACHES)]
)
def test_a_breach_is_found_and_told(rule: Rule, files: Mapping[str, str], message: str, tmp_path: Path) -> None:
    breaches = list(rule(_tree(tmp_path, files)))
    assert any(message in breach for breach in breaches), breaches
    assert all(breach.startswith("reconciler/") for breach in breaches), "a message begins with the place"


GOOD = {
    "core/spec.py": DOC
    + "from pathlib import Path\nfrom pydantic import BaseModel\n\ndef f(x: Path) -> Path:\n    "
    + DOC
    + "    return x\n",
    "core/a.py": DOC
    + "class A:\n    "
    + DOC
    + "    def f(self):\n        "
    + DOC
    + "class B(A):\n    "
    + DOC
    + "    def f(self): ...\n",
    "backends/vllm.py": DOC + "from pydantic import JsonValue\nfrom reconciler.core.spec import f\nKIND = 'vllm'\n",
    "host/clock.py": DOC + "import time\nimport datetime\nx = datetime.datetime.now()\n",
    "control/a.py": DOC
    + JOINED(["import asyncio  # no", "qa: F401 - kept for the example\n"])
    + "TODOS = 'mastodon'\n",
    "cli/a.py": DOC
    + "import click\ndef _f() -> None:\n    from reconciler import app\n    from reconciler.config import load\n",
    "app.py": DOC + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from reconciler.core.spec import f\n",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_good_code_breaches_nothing(rule: Rule, tmp_path: Path) -> None:
    for text in GOOD.values():
        ast.parse(text)
    assert list(rule(_tree(tmp_path, GOOD))) == []


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule for rule, _, _ in BREACHES} == set(RULES)


def _tree(root: Path, files: Mapping[str, str]) -> Source:
    for name, text in files.items():
        path = root / "reconciler" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_source(root)
