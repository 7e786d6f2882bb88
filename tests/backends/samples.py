"""One good instance per backend, and helpers; what the contract suite runs over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from reconciler.backends import discover
from reconciler.core.contracts import Backend, OptionProblem
from reconciler.core.spec import BackendsSpec, InstanceSpec

GOOD: Mapping[str, Mapping[str, JsonValue]] = {
    "vllm": {"model": "org/tiny", "tensor_parallel_size": 2},
    "llama_cpp": {"model": "/models/tiny.gguf", "ctx-size": 4096},
    "mlx_lm": {"model": "org/tiny", "temp": 0.5},
    "simulator": {"model": "tiny", "load-seconds": 0.5},
    "custom": {"command": ["serve-it", "--listen", "{host}:{port}"], "model": "tiny"},
    "external": {"url": "https://llm.example:8443/base/v1/", "model": "tiny", "api_key": {"env": "LLM_KEY"}},
}
NO_BACKENDS = BackendsSpec()


def spec(kind: str, options: Mapping[str, JsonValue] | None = None, **settings: object) -> InstanceSpec:
    """An instance of this kind; the good sample's options unless others are given."""
    chosen = GOOD[kind] if options is None else options
    return InstanceSpec.model_validate({"backend_type": kind, "backend_options": dict(chosen), **settings})


def backend(kind: str) -> Backend:
    """The discovered backend."""
    return discover()[kind]


def errors(problems: Sequence[OptionProblem]) -> list[OptionProblem]:
    """Those that are no warnings."""
    return [problem for problem in problems if not problem.warning]


def check(kind: str, options: Mapping[str, JsonValue] | None = None, **settings: object) -> Sequence[OptionProblem]:
    """What the backend says about such an instance."""
    return backend(kind).check(spec(kind, options, **settings))


def argv(kind: str, options: Mapping[str, JsonValue] | None = None, **settings: object) -> list[str]:
    """The final command with 127.0.0.1 and 8100, for an instance that must be free of errors."""
    instance = spec(kind, options, **settings)
    assert not errors(backend(kind).check(instance))
    launch = backend(kind).launch(instance, NO_BACKENDS)
    assert launch is not None
    return list(backend(kind).command(launch, host="127.0.0.1", port=8100))
