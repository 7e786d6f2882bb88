"""Checks a document's shape against the generated JSON schema, and says each violation in our words, at its place.

Only shapes: known keys, types, ranges. An expanded ``${VAR}`` is read as a number or boolean here, where one is expected.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from reconciler.config._editor import Schema, in_words
from reconciler.config._guard import BadScalar, resolve
from reconciler.config._problems import Reporter, nearest
from reconciler.config._secrets import is_secret
from reconciler.config._tree import Node, Path, Scalar, Sequence, Table, find, locate, plain, replace
from reconciler.config.schema import structure_schema
from reconciler.core.contracts import Backend
from reconciler.core.spec import BackendsSpec

_PLAIN_ITEM = re.compile(r"--?[A-Za-z][\w.=/-]*|[A-Za-z/][\w./-]*")
"""Words that mean themselves in a YAML list; any other is quoted, so that it stays text."""
_NAME_RULE = "letters, digits, `.`, `_` and `-`, up to 63, first a letter or digit"


@lru_cache(maxsize=4)
def _validator(kinds: tuple[str, ...]) -> tuple[Schema, Draft202012Validator]:
    schema = structure_schema(kinds)
    return schema, Draft202012Validator(schema)


def check_structure(root: Table, backends: Mapping[str, Backend], reporter: Reporter) -> tuple[Table, Set[Path]]:
    """Report every violation; returns the tree with expanded values converted, and the paths that are not to be used."""
    structure, validator = _validator(tuple(sorted(backends)))
    errors = list(validator.iter_errors(plain(root)))
    converted = _converted(root, validator, errors)
    if converted is not root:
        assert isinstance(converted, Table)
        root, errors = converted, list(validator.iter_errors(plain(converted)))
    translator = _Translator(root=root, schema=structure, backends=backends, reporter=reporter)
    for error in errors:
        for leaf in _leaves(error):
            translator.report(leaf)
    return root, translator.faulty


def convert_options(options: Node, backend: Backend) -> Node:
    """Backend options with expanded text read as what the backend's schema expects; reports nothing."""
    validator = Draft202012Validator(dict(backend.options_schema()))
    return _converted(options, validator, list(validator.iter_errors(plain(options))))


def misfits(options: Table, backend: Backend, programs: BackendsSpec) -> frozenset[str]:
    """The keys of backend options that the backend's schema does not know, or not with this value."""
    schema = dict(backend.options_schema(programs))
    schema.pop("required", None)
    validator = Draft202012Validator(schema)
    return frozenset(key for key, entry in options.entries.items() if not validator.is_valid({key: plain(entry.node)}))


def _converted(root: Node, validator: Draft202012Validator, errors: Iterable[ValidationError]) -> Node:
    """The tree with each expanded text that violates its schema replaced by the number or boolean that satisfies it."""
    for error in _all_levels(errors):
        path: Path = tuple(error.absolute_path)
        node = find(root, path)
        if not isinstance(node, Scalar) or not node.variables or not isinstance(node.value, str):
            continue
        try:
            value = resolve(node.value.strip())
        except BadScalar:
            continue
        if not isinstance(value, str) and validator.evolve(schema=error.schema).is_valid(value):
            root = replace(root, path, Scalar(value, node.place, node.raw, node.variables, node.end))
    return root


def _all_levels(errors: Iterable[ValidationError]) -> Iterator[ValidationError]:
    for error in errors:
        yield error
        yield from _all_levels(error.context or ())


def _leaves(error: ValidationError) -> Iterator[ValidationError]:
    """The errors a person would name: inside the one branch whose type fits, or the alternatives as a whole."""
    if error.validator not in ("anyOf", "oneOf") or not error.context:
        yield error
        return
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context:
        branches.setdefault(inner.relative_schema_path[0], []).append(inner)
    fitting = [group for group in branches.values() if not any(_is_other_type(inner) for inner in group)]
    if len(fitting) == 1:
        for inner in fitting[0]:
            yield from _leaves(inner)
    else:
        yield error


def _is_other_type(error: ValidationError) -> bool:
    if error.relative_path:
        return False
    if error.validator in ("anyOf", "oneOf") and error.context:
        return all(_is_other_type(inner) or inner.relative_path for inner in error.context)
    return error.validator == "type"


def _schema_of(error: ValidationError) -> Schema:
    return dict(error.schema) if isinstance(error.schema, Mapping) else {}


def found_words(node: Node | None, path: Path) -> str:
    """What stands there, for a message; a value that may be secret is named, not shown."""
    match node:
        case None:
            return "nothing"
        case Sequence():
            return "a list"
        case Table():
            return "a mapping"
        case Scalar(variables=names) if names:
            return f"the value of {' and '.join(names)}"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=value, raw=raw):
            kind = "boolean" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
            if is_secret(path, value):
                return "text" if kind == "text" else f"a {kind}"
            shown = raw if len(raw) <= 60 else raw[:57] + "..."
            return f"the {kind} {shown!r}" if kind == "text" else f"the {kind} {shown}"


def in_yaml_words(message: str, hint: str | None, node: Node | None) -> tuple[str, str | None]:
    """A backend's finding about a value, with what only the writing shows: ``1.10`` is a number, and ``yes`` is text."""
    if not isinstance(node, Scalar) or node.variables:
        return message, hint
    number = isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
    if number and "takes text, not" in message:
        return f"{message.partition(', not')[0]}, not the number {node.raw}", f'put it in quotes: "{node.raw}"'
    if isinstance(node.value, str) and hint is None and "true or false" in message:
        return message, _boolean_cure(node.value)
    return message, hint


def _boolean_cure(text: str) -> str | None:
    """``write true``, for the words that are booleans in YAML 1.1."""
    if text.lower() not in ("yes", "no", "on", "off", "true", "false"):
        return None
    return f"write {'true' if text.lower() in ('yes', 'on', 'true') else 'false'}"


def _shape_cure(path: Path) -> str | None:
    """How the settings look that are most often written in another shape."""
    match path:
        case ("instances",):
            return "write each instance under its name, without a dash: `instances: {NAME: {backend_type: …}}`"
        case ("auth", "management_keys" | "inference_keys"):
            return "write a list of keys, such as `[{file: /path/to/key}]`"
        case ("auth", "management_keys" | "inference_keys", int()):
            return "a key says where it comes from: write `{file: PATH}`, `{env: NAME}` or `{sha256: DIGEST}`"
        case (*_, "environment"):
            return "write `NAME: value` for each variable, without dashes or `=`"
        case _:
            return None


def _items(text: str) -> Iterable[str]:
    """The words of a text as items of a YAML list in brackets."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = [text]
    return (word if _PLAIN_ITEM.fullmatch(word) else f"'{word.replace(chr(39), chr(39) * 2)}'" for word in words)


@dataclass(slots=True, kw_only=True)
class _Translator:
    """One per check; ``faulty`` grows."""

    root: Table
    schema: Schema
    backends: Mapping[str, Backend]
    reporter: Reporter
    faulty: set[Path] = field(default_factory=set)

    def report(self, error: ValidationError) -> None:
        """Say one violation."""
        path: Path = tuple(error.absolute_path)
        schema = _schema_of(error)
        if "propertyNames" in error.relative_schema_path or "propertyNames" in error.absolute_schema_path:
            self._bad_name(path, str(error.instance))
        elif error.validator == "additionalProperties":
            self._unknown_keys(path, list(error.instance) if isinstance(error.instance, dict) else [], schema)
        elif error.validator == "required":
            self._say(path, str(error.message).replace("'", "`"), hint=None)
        else:
            node = find(self.root, path)
            expected = self._expected(schema)
            self._say(
                path, f"expected {expected}, found {found_words(node, path)}", hint=self._cure(node, path, schema)
            )

    def _say(self, path: Path, message: str, *, hint: str | None, on_key: bool = False) -> None:
        self.faulty.add(path)
        self.reporter.error(locate(self.root, path, on_key=on_key), message, path=path, hint=hint)

    def _bad_name(self, path: Path, name: str) -> None:
        message = f"cannot use {name!r} as an instance name"
        self._say((*path, name), message, hint=f"{_NAME_RULE}; any other name can be an alias", on_key=True)

    def _unknown_keys(self, path: Path, keys: Iterable[str], schema: Schema) -> None:
        known: Schema = schema.get("properties", {})
        for key in keys:
            if key in known:
                continue
            hint = self._where_it_belongs(path, key)
            if hint is None:
                meant = nearest(key, known)
                hint = f"did you mean `{meant}`?" if meant else "known here: " + ", ".join(known)
                if not path and not meant:
                    hint += ", and x-… for anchors"
            self._say((*path, key), f"unknown key `{key}`", hint=hint, on_key=True)

    def _where_it_belongs(self, path: Path, key: str) -> str | None:
        """A server's own flag written one level too high is the likeliest mistake of all."""
        if not (path[:1] == ("instances",) and len(path) == 2):
            return None
        kind = find(self.root, (*path, "backend_type")) or find(self.root, ("defaults", "backend_type"))
        backend = self.backends.get(str(kind.value)) if isinstance(kind, Scalar) else None
        options = backend.options_schema().get("properties") if backend else None
        if isinstance(options, Mapping) and {key, key.replace("-", "_"), key.replace("_", "-")} & options.keys():
            return f"`{key}` is an option of the server: put it under backend_options"
        return None

    def _resolved(self, schema: Schema) -> Schema:
        reference = schema.get("$ref")
        if isinstance(reference, str):
            definition: Schema = self.schema["$defs"][reference.rpartition("/")[2]]
            return definition
        return schema

    def _expected(self, schema: Schema) -> str:
        """What a schema asks for, in a few words; null is never advertised."""
        schema = self._resolved(schema)
        if "anyOf" in schema:
            words = [self._expected(branch) for branch in schema["anyOf"] if branch.get("type") != "null"]
            return " or ".join(dict.fromkeys(words))
        return in_words(schema)

    def _cure(self, node: Node | None, path: Path, schema: Schema) -> str | None:
        """What to write instead, where that is plain."""
        shape = _shape_cure(path)
        if shape is not None:
            return shape
        if isinstance(node, Sequence) and self._expected(schema) == "a mapping":
            return f"write `name: value` under {path[-1] if path else 'it'}, without a list's dashes or brackets"
        if not isinstance(node, Scalar) or node.variables:
            return None
        expected, secret = self._expected(schema), is_secret(path, node.value)
        is_number = isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
        if "duration" in expected:
            return f"add a unit: {node.raw}s or {node.raw}m" if is_number else None
        if "enum" in self._resolved(schema):
            meant = nearest(str(node.value), [str(value) for value in self._resolved(schema)["enum"]])
            return f"did you mean `{meant}`?" if meant else None
        if "text" in expected and not isinstance(node.value, str) and node.value is not None:
            return "put it in quotes" if secret else f'put it in quotes: "{node.raw}"'
        if isinstance(node.value, str):
            return self._cure_text(node.value, expected, secret)
        return None

    @staticmethod
    def _cure_text(text: str, expected: str, secret: bool) -> str | None:
        if "true or false" in expected and (cure := _boolean_cure(text)):
            return cure
        if "number" in expected and text.strip().lstrip("+-").replace(".", "", 1).isdigit():
            return "remove the quotes"
        if expected == "a list" and not secret and len(text) <= 60:
            return f"write [{', '.join(_items(text))}]"
        return None
