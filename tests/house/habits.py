"""How a file is written: its length, its docstrings, its exceptions to lint and types, its words. One function per rule.

A rule takes the source and gives back one line per breach, with the place, what is wrong and what to do instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from tests.house.source import PACKAGE, Source

LONGEST = 400
"""Lines of a Python file."""
LONGER: Mapping[str, tuple[int, str]] = {
    "reconciler/runtimes/_shim.py": (
        800,
        "one file by design: it runs alone, and must not need the package once it has started",
    ),
}
"""Files that may be longer, up to where and why."""

KIND_HOMES = ("reconciler/backends/", "reconciler/simulator/", "reconciler/app.py", "reconciler/cli/simulate.py")
KIND_EXCEPTIONS: Mapping[str, str] = {
    "reconciler/core/spec.py": "the default of `vllm_executable` is the program's name",
    "reconciler/config/importers/contract.py": "what another tool runs elsewhere is started by no backend that could be asked",
    "reconciler/config/importers/_compose_run.py": "`external` is a word of compose files too, about volumes",
}
"""Files outside the homes in which a backend's kind may stand as text, and why."""

_BARE = re.compile(
    r"#\s*noqa(?!:)|#\s*type:\s*ignore(?!\[)|#\s*ruff:\s*noqa(?!:)|#\s*mypy:\s*ignore-errors", re.IGNORECASE
)
_NAMED = re.compile(r"#\s*(?:noqa:\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*|type:\s*ignore\[[\w, -]+\])", re.IGNORECASE)
_UNDONE = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
_REGISTRIES = re.compile(
    r"py" r"pi\.org|python" r"hosted\.org|npm" r"js\.(?:org|com)|crates\." r"io|golang\." r"org|ana" r"conda\.org"
)
_PERSONAL = re.compile(
    r"(?<![\w.])/(?:wo" r"rk|ho" r"me/[a-z]\w*|Us" r"ers/\w+|tmp/br" r"ief)/|Co-" r"authored-by|generated " r"with",
    re.IGNORECASE,
)
_SHORTEST_REASON = 8
"""Characters: less is not a reason."""


def files_stay_short(source: Source) -> Iterator[str]:
    """A file is read in one go."""
    lengths = {module.path: module.text.count("\n") for module in (*source.modules, *source.tests)}
    for path, lines in lengths.items():
        limit = LONGER.get(path, (LONGEST, ""))[0]
        if lines > limit:
            yield f"{path}: {lines} lines; split it, {limit} is the most"
        elif path in LONGER and lines <= LONGEST:
            yield f"{path}: needs no exception any more; remove it from LONGER"


def modules_say_what_they_are(source: Source) -> Iterator[str]:
    """Every module of the product, and every one of the tests that holds code, begins with a docstring."""
    for module in (*source.modules, *source.tests):
        empty_test_package = module.path.startswith("tests/") and not module.text.strip()
        if not empty_test_package and not ast.get_docstring(module.tree):
            yield f"{module.path}:1: no docstring; say in two or three sentences what this module is and is not"


def public_names_are_documented(source: Source) -> Iterator[str]:
    """Every public function, method and class of the product has a docstring, its own or, overriding, that of its base."""
    classes = {node.name: node for module in source.modules for node in module.nodes if isinstance(node, ast.ClassDef)}
    for module in source.modules:
        for owner, node in _public(module.tree, None):
            if ast.get_docstring(node) or _inherits_docstring(node.name, owner, classes):
                continue
            name = f"{owner.name}.{node.name}" if owner else node.name
            yield f"{module.at(node)}: {name} is public and has no docstring"


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public(
    scope: ast.Module | ast.ClassDef, owner: ast.ClassDef | None
) -> Iterator[tuple[ast.ClassDef | None, Definition]]:
    for node in scope.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if not {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list} & {"overload", "setter"}:
            yield owner, node
        if isinstance(node, ast.ClassDef):
            yield from _public(node, node)


def _inherits_docstring(method: str, owner: ast.ClassDef | None, classes: Mapping[str, ast.ClassDef]) -> bool:
    for base in owner.bases if owner else ():
        parent = classes.get(ast.unparse(base).split("[")[0].split(".")[-1])
        if parent is None or parent is owner:
            continue
        named = [node for node in parent.body if isinstance(node, Definition) and node.name == method]
        if any(ast.get_docstring(node) for node in named) or _inherits_docstring(method, parent, classes):
            return True
    return False


def exceptions_name_rule_and_reason(source: Source) -> Iterator[str]:
    """An ignored lint or type rule is named, and the same line says why."""
    for module in (*source.modules, *source.tests):
        for line, comment in module.comments:
            if _BARE.search(comment):
                yield f"{module.path}:{line}: ignores every rule; name the one, and say why"
            elif _NAMED.search(comment) and len(_NAMED.sub("", comment).strip(" #-:")) < _SHORTEST_REASON:
                yield f"{module.path}:{line}: ignores a rule without a reason; write it behind the rule"


def no_switch_over_kinds(source: Source) -> Iterator[str]:
    """A backend is named by its own file only: nothing else asks which kind an instance is."""
    for module in source.modules:
        if (
            module.path.startswith(KIND_HOMES)
            or module.path.startswith(f"{PACKAGE}/cli/demo")
            or module.path in KIND_EXCEPTIONS
        ):
            continue
        for node in module.nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in source.kinds:
                yield f"{module.at(node)}: names the backend {node.value!r}; ask the backend instead, or move this into its file"


def nothing_is_left_undone(source: Source) -> Iterator[str]:
    """Work that waits is an issue, not a mark in a file."""
    yield from _matches(source, _UNDONE, "marks work as not done; do it, or write an issue")


def no_registry_is_named(source: Source) -> Iterator[str]:
    """Which package index is used is the business of the machine, not of this repository."""
    yield from _matches(source, _REGISTRIES, "names a package registry; leave that to the machine's own configuration")


def files_speak_of_the_project_alone(source: Source) -> Iterator[str]:
    """No path of somebody's own machine, no word about who or what typed the text."""
    yield from _matches(source, _PERSONAL, "speaks of somebody's workplace; name nothing outside the repository")


def _matches(source: Source, pattern: re.Pattern[str], what: str) -> Iterator[str]:
    for path, text in source.texts:
        for number, line in enumerate(text.splitlines(), start=1):
            if found := pattern.search(line):
                yield f"{path}:{number}: {found[0]!r} {what}"
