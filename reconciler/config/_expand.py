"""Prepares a parsed tree: drops ``x-*`` keys and replaces ``${VAR}`` in text values. Works on values, never on raw text.

Inside the value of one backend option nothing is dropped: such a mapping is the server's own JSON and belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.config._guard import BadScalar, check_text
from reconciler.config._problems import Reporter
from reconciler.config._tree import Entry, Node, Path, Scalar, Sequence, Table

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")


@dataclass(slots=True)
class Expander:
    """One per load; :meth:`node` is the whole of it."""

    environ: Mapping[str, str]
    reporter: Reporter

    def node(self, node: Node, path: Path = ()) -> Node:
        """The node with variables replaced and macros dropped."""
        match node:
            case Scalar():
                return self._scalar(node, path) if isinstance(node.value, str) and "${" in node.value else node
            case Sequence():
                return Sequence(
                    tuple(self.node(item, (*path, index)) for index, item in enumerate(node.items)), node.place
                )
            case Table():
                return self.table(node, path)

    def table(self, table: Table, path: Path = ()) -> Table:
        """As :meth:`node`, for a table."""
        keep_all = _inside_an_option(path)
        return Table(
            {
                key: Entry(entry.key_place, self.node(entry.node, (*path, key)))
                for key, entry in table.entries.items()
                if keep_all or not key.startswith("x-")
            },
            table.place,
        )

    def _scalar(self, scalar: Scalar, path: Path) -> Scalar:
        names: list[str] = []

        def value(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name = match["name"]
            if name is None:
                message = "`${` without a variable's name and a closing brace"
                self.reporter.unusable(
                    scalar.place, message, path=path, hint="write ${NAME} or ${NAME:-default}; $${ is a literal ${"
                )
                return ""
            names.append(name)
            found = self.environ.get(name)
            if match["default"] is not None and not found:  # as in a shell: `:-` serves for unset and for empty
                return match["default"]
            if found is None:
                message = f"the environment variable {name} is not set"
                self.reporter.unusable(scalar.place, message, path=path, hint=f"set it, or write ${{{name}:-default}}")
                return ""
            self.reporter.secrets.hide(found, f"${{{name}}}")
            return found

        text = _REFERENCE.sub(value, str(scalar.value))
        try:
            text = check_text(text)
        except BadScalar as bad:
            self.reporter.unusable(scalar.place, f"the value of {', '.join(names)}: {bad}", path=path, hint=bad.hint)
            text = ""
        return Scalar(text, scalar.place, scalar.raw, tuple(names), scalar.end)


def _inside_an_option(path: Path) -> bool:
    if path[:1] == ("defaults",):
        return len(path) >= 3 and path[1] == "backend_options"
    return len(path) >= 4 and path[0] == "instances" and path[2] == "backend_options"
