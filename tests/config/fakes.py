"""A small backend with a closed set of options, so that these tests need no real one; and short ways to load text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from reconciler.backends._plain import Untabled
from reconciler.config.load import load_text
from reconciler.core.contracts import (
    Backend,
    Endpoint,
    Launch,
    OptionProblem,
    ParsedCommand,
    Probe,
    Verdict,
)
from reconciler.core.errors import Problem, Rejected
from reconciler.core.spec import BackendsSpec, Fleet, InstanceSpec

OPTIONS: Mapping[str, dict[str, object]] = {
    "model": {"type": "string", "description": "What to serve."},
    "tensor_parallel_size": {"type": "integer", "minimum": 1},
    "gpu_memory_utilization": {"type": "number"},
    "enable_log_requests": {"type": "boolean"},
    "host": {"type": "string"},
    "port": {"type": "integer"},
    "overrides": {"type": "object"},
    "api_key": {"type": "string"},
}
_PYTHON: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
}


@dataclass(frozen=True)
class FakeBackend(Untabled):
    """Knows :data:`OPTIONS` in both spellings, insists on ``model``, warns about ``enable_log_requests``."""

    kind: str = "fake"
    start_timeout: float = 300.0
    parse_routes: tuple[str, ...] = ()

    def options_schema(self, backends: BackendsSpec | None = None) -> Mapping[str, object]:
        properties = {spelling: value for name, value in OPTIONS.items() for spelling in (name, name.replace("_", "-"))}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def check(
        self, spec: InstanceSpec, *, backends: BackendsSpec | None = None, allow_hosts: frozenset[str] = frozenset()
    ) -> Sequence[OptionProblem]:
        found: list[OptionProblem] = []
        for key, value in spec.backend_options.items():
            at = ("backend_options", key)
            rule = OPTIONS.get(key.replace("-", "_"))
            if rule is None:
                near = difflib.get_close_matches(key, OPTIONS, n=1)
                hint = f"did you mean `{near[0]}`?" if near else None
                found.append(OptionProblem(path=at, message=f"unknown option `{key}`", hint=hint, on_key=True))
            elif not isinstance(value, _PYTHON[str(rule["type"])]) or (
                isinstance(value, bool) and rule["type"] != "boolean"
            ):
                found.append(OptionProblem(path=at, message=f"expected {rule['type']}, found {value!r}"))
            elif key == "enable_log_requests":
                found.append(OptionProblem(path=at, message="prompts will be in the log", warning=True))
            elif key == "host" and value not in {"127.0.0.1", *allow_hosts}:
                found.append(OptionProblem(path=at, message=f"cannot listen on {value}"))
        if "model" not in spec.backend_options:
            found.append(OptionProblem(path=("backend_options",), message="`model` is missing"))
        return found

    def launch(self, spec: InstanceSpec, backends: BackendsSpec) -> Launch | None:
        raise NotImplementedError

    def command(self, launch: Launch, *, host: str, port: int) -> tuple[str, ...]:
        raise NotImplementedError

    def key_environment(self, api_key: str) -> Mapping[str, str]:
        raise NotImplementedError

    def external(self, spec: InstanceSpec, environ: Mapping[str, str]) -> Endpoint | None:
        raise NotImplementedError

    def served_model(self, spec: InstanceSpec) -> str | None:
        raise NotImplementedError

    def readiness(self, spec: InstanceSpec) -> Probe:
        raise NotImplementedError

    def liveness(self, spec: InstanceSpec) -> Probe:
        raise NotImplementedError

    def judge(self, status: int, body: bytes) -> Verdict:
        raise NotImplementedError

    def parse(self, command: str, backends: BackendsSpec | None = None) -> ParsedCommand:
        raise NotImplementedError


BACKENDS: Mapping[str, Backend] = {"fake": FakeBackend(), "other": FakeBackend(kind="other")}


def fleet(text: str | bytes, environ: Mapping[str, str] | None = None, name: str = "f.yaml") -> Fleet:
    """Load a text with the fake backends."""
    data = text.encode() if isinstance(text, str) else text
    return load_text(data, name=name, backends=BACKENDS, environ=environ or {})


def problems(text: str | bytes, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    """What a text is refused for; fails when it is accepted."""
    with pytest.raises(Rejected) as refusal:
        fleet(text, environ)
    return refusal.value.problems


def places(found: Sequence[Problem]) -> list[tuple[int | None, int | None]]:
    """Line and column of each."""
    return [(problem.line, problem.column) for problem in found]


def one(name: str = "a", options: str = "model: m", more: str = "") -> str:
    """A file with one instance; ``more`` are lines of settings, unindented."""
    lines = "".join(f"    {line}\n" for line in more.splitlines())
    return f"instances:\n  {name}:\n    backend_type: fake\n    backend_options: {{{options}}}\n{lines}"
