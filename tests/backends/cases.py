"""The form of one pasted command line in the project's table, with everything that is expected of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

Options = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command that is understood."""

    kind: str
    command: str
    options: Options
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    executable: str | None = None
    warns: tuple[str, ...] = ()
    """Each warning, in order: ``line:column`` and a part of its text, with a blank between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A command that is refused."""

    kind: str
    command: str
    place: str
    """``line:column``."""
    says: str
    cure: str = ""
    """A part of the hint."""


def vllm(command: str, options: Options | None = None, **expected: object) -> Case:
    """A vLLM command; the model m/x unless options say other."""
    return _case("vllm", command, {"model": "m/x"} if options is None else options, expected)


def llama(command: str, options: Options | None = None, **expected: object) -> Case:
    """A llama-server command; the model q.gguf unless options say other."""
    return _case("llama_cpp", command, {"model": "q.gguf"} if options is None else options, expected)


def mlx(command: str, options: Options | None = None, **expected: object) -> Case:
    """An mlx_lm.server command; the model m/x unless options say other."""
    return _case("mlx_lm", command, {"model": "m/x"} if options is None else options, expected)


def _case(kind: str, command: str, options: Options, expected: Mapping[str, object]) -> Case:
    return Case(kind=kind, command=command, options=options, **expected)  # type: ignore[arg-type]  # the three above pass fields on


def wrong(kind: str, command: str, place: str, says: str, cure: str = "") -> Wrong:
    """A command that is refused."""
    return Wrong(kind=kind, command=command, place=place, says=says, cure=cure)
