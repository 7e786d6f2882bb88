"""The three real servers as data: which program, which tiny model, which options and environment, as a YAML file says.

Everything here was measured on a two-core CPU machine; host and port are never among the options, since assigning
them is llamactl's work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.real.install import product


@dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    """One real server: how to name it in a file and how to know its process."""

    backend_type: str
    component: str
    program: str
    """The product of `component` that is run; also a word of the process's command line."""
    executable_key: str
    """Its name under `backends` in the file."""
    model: str
    """The product of `models` that it serves."""
    options: Mapping[str, object]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_within_s: float
    """Deadline for readiness, seconds: several times what was measured, for two busy cores."""

    def executable(self, cache: Path) -> Path | None:
        """Where the program is, or None where it is not installed."""
        return product(cache, self.component, self.program)

    def with_options(self, **more: object) -> RealServer:
        """The same server with further options."""
        return replace(self, options={**self.options, **more})


VLLM: Final = RealServer(
    backend_type="vllm",
    component="vllm",
    program="vllm",
    executable_key="vllm_executable",
    model="tiny",
    # enforce_eager spares compilation; without kv_cache_memory_bytes it wants 92 % of the machine's memory free
    options={
        "served_model_name": "tiny",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 4,
        "kv_cache_memory_bytes": 64 * 1024 * 1024,
    },
    environment={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
    ready_within_s=240.0,  # 19 s with a warm page cache, 27 s cold, on an idle machine
)

LLAMA_CPP: Final = RealServer(
    backend_type="llama_cpp",
    component="llama_cpp",
    program="llama-server",
    executable_key="llama_executable",
    model="tiny.gguf",
    options={"ctx_size": 4096, "metrics": True, "parallel": 4},
    ready_within_s=60.0,  # 0.03 s measured
)

MLX_LM: Final = RealServer(
    backend_type="mlx_lm",
    component="mlx_lm",
    program="mlx_lm.server",
    executable_key="mlx_lm_executable",
    model="tiny",
    options={"max_tokens": 64},
    environment={"HF_HUB_OFFLINE": "1"},
    ready_within_s=90.0,  # 1 s measured
)

SERVERS: Final = (LLAMA_CPP, MLX_LM, VLLM)


@dataclass(frozen=True, slots=True)
class Declared:
    """One instance of a file: its name, the server, and the paths on this machine."""

    name: str
    server: RealServer
    executable: Path
    model: Path


def fleet_text(*, port: int, instances: tuple[Declared, ...]) -> str:
    """A llamactl.yaml as a person would write it; scalars are JSON's, which YAML 1.2 reads as they are."""
    lines = ["# real servers on a CPU", f"server: {{ host: 127.0.0.1, port: {port} }}", "backends:"]
    executables = {one.server.executable_key: one.executable for one in instances}
    lines += [f"  {key}: {json.dumps(str(path))}" for key, path in executables.items()]
    lines.append("instances:")
    for one in instances:
        lines += [f"  {one.name}:", f"    backend_type: {one.server.backend_type}", "    backend_options:"]
        lines.append(f"      model: {json.dumps(str(one.model))}")
        lines += [f"      {key}: {json.dumps(value)}" for key, value in one.server.options.items()]
        if one.server.environment:
            lines.append("    environment:")
            lines += [f"      {key}: {json.dumps(value)}" for key, value in one.server.environment.items()]
    return "\n".join(lines) + "\n"
