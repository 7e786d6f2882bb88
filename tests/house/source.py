"""Reads a source tree once: every Python module with its imports, and the text of every other file. Judges nothing."""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "reconciler"
DATA = f"{PACKAGE}/backends/vocabulary/"
"""Never imported: option tables, and the source text that a server's own interpreter runs. Rules for texts hold there too."""
_IGNORED = frozenset({"__pycache__", "build", "dist"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module or name: ``from a.b import c`` is ``a.b`` with name ``c``, ``import a.b`` has no name."""

    module: str
    name: str | None
    line: int
    at_top: bool
    """Outside any function."""
    typing_only: bool
    """Below ``if TYPE_CHECKING``."""
    relative: bool

    @property
    def root(self) -> str:
        """The distribution's or standard module's first name."""
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """One Python file. ``room`` is the folder below the package, or the module's own name right in it."""

    path: str
    text: str

    @property
    def room(self) -> str:
        """``core`` for ``reconciler/core/diff.py``, ``app`` for ``reconciler/app.py``, empty for the package itself."""
        parts = Path(self.path).with_suffix("").parts[1:]
        return "" if parts[0] == "__init__" else parts[0]

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.path)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import, those inside functions and below ``TYPE_CHECKING`` included."""
        return tuple(_imports(self.tree, at_top=True, typing_only=False))

    @cached_property
    def comments(self) -> tuple[tuple[int, str], ...]:
        """(line, text) of every comment; what only looks like one inside a string is not here."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return tuple((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree."""
        return tuple(ast.walk(self.tree))

    def at(self, node: ast.stmt | ast.expr | int) -> str:
        """``path:line`` for messages."""
        return f"{self.path}:{node if isinstance(node, int) else node.lineno}"


@dataclass(frozen=True)
class Source:
    """A repository: the product's modules, the tests' modules, and all its text files."""

    modules: tuple[Module, ...]
    tests: tuple[Module, ...]
    texts: tuple[tuple[str, str], ...]
    """(path, text) of every text file, Python included."""

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The backend kinds: one file each in the backends room."""
        return frozenset(
            Path(module.path).stem
            for module in self.modules
            if module.room == "backends" and not Path(module.path).stem.startswith("_")
        )


def read_source(root: Path) -> Source:
    """The tree below ``root``: what git tracks or would track, or simply every file where there is no repository."""
    texts = []
    for path in sorted(_files(root)):
        try:
            texts.append((path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")))
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # not a text, or removed since it was listed
    python = [Module(path, text) for path, text in texts if path.endswith(".py") and not path.startswith(DATA)]
    return Source(
        modules=tuple(module for module in python if module.path.startswith(f"{PACKAGE}/")),
        tests=tuple(module for module in python if module.path.startswith("tests/")),
        texts=tuple(texts),
    )


def _files(root: Path) -> Iterator[Path]:
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=30).stdout
        yield from {root / name.decode() for name in listed.split(b"\0") if name}
        return
    for path in root.rglob("*"):
        if path.is_file() and not _IGNORED.intersection(path.relative_to(root).parts):
            yield path


def _imports(node: ast.AST, *, at_top: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, None, child.lineno, at_top, typing_only, relative=False)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                module, relative = child.module or "", bool(child.level)
                yield Import(module, alias.name, child.lineno, at_top, typing_only, relative)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(child, at_top=at_top and not inside, typing_only=typing_only or typing)
