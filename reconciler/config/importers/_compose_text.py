"""Values of a compose file: its ``$VARIABLES`` taken apart, its paths seen from the file's folder, its durations. Reads no file.

Compose puts variables in while it reads; ours are put in while our file is loaded, so each becomes a reference where ours has the form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.config._tree import Entry, Node, Scalar, Sequence, Table
from reconciler.config.importers._carry import Ledger
from reconciler.config.importers._words import Ref, Text, Unsayable, bare, joined, literal, shown
from reconciler.core.spec import DURATION_PATTERN

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
RESOLVED = "import the output of `docker compose config`, where it is resolved"
STDIN = "<stdin>"


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the values of one file; what our file says otherwise goes to the ledger."""

    ledger: Ledger
    folder: str | None
    """Absolute; None when the file came from standard input."""

    def text(self, node: Node, what: str, *, empty: bool = True) -> Text:
        """A scalar with its variables; Unsayable for anything else, and for forms of variables that ours has not.

        A variable that is not set is empty in compose, and ``${X:-}`` here. With ``empty=False`` it stays ``${X}``, which our file
        wants set: in a command, where compose would run something else without it.
        """
        if not isinstance(node, Scalar):
            raise Unsayable("expected a text", "see the compose reference")
        if not isinstance(node.value, str):
            return literal(node.raw)
        return self._interpolated(node.value, what, node.place.line, "" if empty else None)

    def plain(self, node: Node, what: str) -> str:
        """A scalar in which no variable may stand."""
        text = self.text(node, what)
        found = bare(text)
        if found is None:
            raise Unsayable(f"{shown(text)} cannot be worked out here", "write the value itself")
        return found

    def words(self, node: Node, what: str, *, empty: bool = True) -> tuple[Text, ...]:
        """The scalars of a list, or of a lone scalar; ``empty`` as in :meth:`text`."""
        items = node.items if isinstance(node, Sequence) else (node,)
        return tuple(self.text(item, what, empty=empty) for item in items)

    def items(self, node: Node) -> tuple[Node, ...]:
        """The items of a list; Unsayable for anything else."""
        if not isinstance(node, Sequence):
            raise Unsayable("expected a list", "see the compose reference")
        return node.items

    def entries(self, node: Node) -> Mapping[str, Entry]:
        """The entries of a mapping; Unsayable for anything else."""
        if not isinstance(node, Table):
            raise Unsayable("expected a mapping", "see the compose reference")
        return node.entries

    def pairs(self, node: Node, what: str) -> tuple[tuple[str, Text | None, int], ...]:
        """``{NAME: value}`` or ``[NAME=value]``, with lines; None where no value is given."""
        if isinstance(node, Table):
            return tuple(
                (
                    key,
                    None
                    if isinstance(entry.node, Scalar) and entry.node.value is None
                    else self.text(entry.node, f"{what}.{key}"),
                    entry.key_place.line,
                )
                for key, entry in node.entries.items()
            )
        found = []
        for item in self.items(node):
            text = self.text(item, what)
            name, equals, rest = str(text[0]).partition("=") if text else ("", "", "")
            found.append((name, joined(literal(rest), text[1:]) if equals else None, item.place.line))
        return tuple(found)

    def _interpolated(self, text: str, what: str, line: int, unset: str | None) -> Text:
        pieces: list[str | Ref] = []
        at = 0
        while (dollar := text.find("$", at)) >= 0:
            pieces.append(text[at:dollar])
            follower = text[dollar + 1 : dollar + 2]
            name = _NAME.match(text, dollar + 1)
            if follower == "$":
                pieces.append("$")
                at = dollar + 2
            elif name is not None:
                pieces.append(Ref(name[0], unset))
                self.ledger.reads(name[0], what, line=line)
                at = name.end()
            elif follower == "{":
                ref, at = self._braced(text, dollar, what, line, unset)
                pieces.append(ref)
                self.ledger.reads(ref.name, what, line=line)
            else:
                raise Unsayable("a dollar sign that names no variable", "write $$ to mean the sign")
        pieces.append(text[at:])
        return joined(tuple(piece for piece in pieces if piece != ""))

    def _braced(self, text: str, at: int, what: str, line: int, unset: str | None) -> tuple[Ref, int]:
        depth, end = 0, at + 1
        for end in range(at + 1, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                break
        inner = text[at + 2 : end]
        name = _NAME.match(inner)
        if depth or name is None:
            raise Unsayable("`${` without a variable's name and a closing brace")
        form = re.match(r"(:?[-?+])|$", inner[name.end() :])
        if form is None:
            raise Unsayable(f"what follows {name[0]} between the braces is no form of a variable")
        rest = inner[name.end() + form.end() :]
        if form[0] == "":
            return Ref(name[0], unset), end + 1
        if form[0] in ("+", ":+") or "$" in rest:
            shape = f"${{{name[0]}{form[0]}...}}"  # what follows may be a secret
            raise Unsayable(f"our file has no form for {shape}", f"set {name[0]} and write ${{{name[0]}}}")
        if form[0] in ("?", ":?"):
            why = f"its own message is not shown: llamactl says by itself that {name[0]} is not set"
            self.ledger.variable(f"{name[0]}?", what, why, line=line)
            return Ref(name[0]), end + 1
        if form[0] == "-":
            why = f"the default serves for an empty {name[0]} too, there only for one that is not set"
            self.ledger.variable(f"{name[0]}-", what, why, line=line)
        return Ref(name[0], rest), end + 1

    def path(self, text: Text, what: str, line: int) -> Text:
        """A path of this host: relative ones are seen from the compose file's folder, ``~`` is the home folder."""
        if not text:
            raise Unsayable("an empty path")
        first, rest = text[0], text[1:]
        if isinstance(first, Ref):
            default = first.default
            if default == "~" or (default or "").startswith("~/"):
                return (Ref(first.name, self._at_home(str(default), what, line)), *rest)
            if default and not default.startswith("/"):
                return (Ref(first.name, self._absolute(default, what, line)), *rest)
            return text
        if first == "~" or first.startswith("~/"):
            why = "~ became ${HOME}: the home folder of the user that llamactl runs as"
            self.ledger.variable("HOME", what, why, "write the whole path", line=line)
            return joined((Ref("HOME"),), literal(first[1:]), rest)
        return text if first.startswith("/") else joined(literal(self._absolute(first, what, line)), rest)

    def _at_home(self, path: str, what: str, line: int) -> str:
        """``~/x`` within the default of a variable, where no further variable can stand: worked out now."""
        full = os.path.expanduser(path)
        why = f"{path} became {full}: a default cannot hold ${{HOME}}, so it is the home folder of whoever imports"
        self.ledger.add(what, why, "change it where llamactl runs as another user", line=line)
        return full

    def _absolute(self, path: str, what: str, line: int) -> str:
        if "://" in path:
            raise Unsayable("a URL is no path of this host", "name a file or a folder")
        if self.folder is None:
            why = f"{path} is seen from the compose file's folder, which is not known of standard input"
            self.ledger.add(what, why, "write the whole path", line=line)
            return path
        slash = "/" if path.endswith("/") and path.strip("./") else ""
        full = os.path.normpath(os.path.join(self.folder, path)) + slash
        self.ledger.add(what, f"{path} became {full}: compose sees it from its file's folder", line=line)
        return full


def is_path(text: Text) -> bool:
    """Whether the source of a volume is a path and not a volume's name, as compose tells them apart."""
    return bool(text) and (
        isinstance(text[0], Ref) or text[0].startswith(("/", "./", "../", "~")) or text[0] in (".", "..")
    )


def duration(text: str) -> str:
    """``1m30s`` as our file writes it; Unsayable for what is no duration."""
    if re.match(DURATION_PATTERN, text) and "d" not in text:
        return text
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Unsayable(f"{text!r} is no duration", "write it as 90s or 1m30s")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return f"{round(seconds * 1000)}ms"
