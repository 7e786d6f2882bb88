"""Checks for backends whose few options are their own and come from no vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Self

from pydantic import JsonValue

from reconciler.backends._values import ValueProblem, check_text, shown
from reconciler.core.contracts import OptionProblem, OptionSource, OptionTable, TableLookup
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import BackendsSpec, InstanceSpec


class Untabled:
    """The part of a backend that has to do with reading an installed program's options, for one that has no such program."""

    kind: str

    @property
    def option_source(self) -> OptionSource | None:
        """None."""
        return None

    def read_options(self, output: str) -> OptionTable:
        """Always Rejected."""
        raise Rejected(Problem(message=f"{self.kind} has no options that could be read from a program"))

    def informed(self, lookup: TableLookup) -> Self:
        """The same backend."""
        return self

    def executable(self, spec: InstanceSpec | None, backends: BackendsSpec) -> tuple[str, ...] | None:
        """None."""
        return None


Written = Mapping[str, tuple[str, JsonValue]]
"""By canonical name: the key as written, and the value."""


def check_keys(spec: InstanceSpec, known: Sequence[str], kind: str) -> tuple[Written, Sequence[OptionProblem]]:
    """The known options under any spelling, and a problem for each other key."""
    found: dict[str, tuple[str, JsonValue]] = {}
    problems = []
    for key, value in spec.backend_options.items():
        name = key.replace("-", "_")
        if key.startswith("x-"):
            continue
        if name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"{kind} knows {', '.join(known)}"
            message = f"{kind} has no option {shown(key)}"
            problems.append(OptionProblem(path=("backend_options", key), message=message, hint=hint, on_key=True))
        elif name in found:
            message = f"{key} and {found[name][0]} are the same option"
            problems.append(
                OptionProblem(path=("backend_options", key), message=message, hint="keep one of them", on_key=True)
            )
        else:
            found[name] = (key, value)
    return found, problems


def check_plain_text(key: str, value: JsonValue) -> Iterator[OptionProblem]:
    """One text that is not empty and holds no control characters."""
    path = ("backend_options", key)
    if not isinstance(value, str) or not value:
        hint = f'quote it: "{value}"' if isinstance(value, int) and not isinstance(value, bool) else None
        yield OptionProblem(path=path, message=f"{key} takes text, not {shown(value)}", hint=hint)
        return
    try:
        check_text(value)
    except ValueProblem as problem:
        yield OptionProblem(path=path, message=f"{key} {problem.message}", hint=problem.hint)


def option_value(spec: InstanceSpec, name: str) -> JsonValue:
    """An option's value under either spelling; None when absent."""
    return spec.backend_options.get(name, spec.backend_options.get(name.replace("_", "-")))


def text_option(spec: InstanceSpec, name: str) -> str | None:
    """An option that is text and not empty; None otherwise."""
    value = option_value(spec, name)
    return value if isinstance(value, str) and value else None
