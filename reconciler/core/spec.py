"""What users write, as frozen models: server, keys, backends, instances. Values are already merged with ``defaults`` in a ``Fleet``.

Only shapes and units live here; positions, files and messages belong to the config room. The field descriptions are the texts that
an editor shows, because the JSON schemas are generated from these models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, PrivateAttr, WithJsonSchema

from reconciler.core.errors import Problem

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""Instance names: up to 63 characters, first a letter or digit; they become folder names and log fields."""

NOTE_PREFIX = "x-"
"""Keys that begin so are the user's own notes, anywhere in the file; no instance can be called so."""


def is_name(text: str) -> bool:
    """Whether an instance can have this name."""
    return re.fullmatch(NAME_PATTERN, text) is not None and not text.startswith(NOTE_PREFIX) and not text.endswith("\n")


DURATION_PATTERN = r"^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$"
LONGEST_DURATION = 3650 * 86400.0
"""Seconds; beyond it clocks and timers misbehave, and nobody means it."""
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Seconds for ``90s``, ``10m``, ``1h30m``, ``500ms``; raises ValueError naming the cure for anything else."""
    if isinstance(value, float):
        return value  # already seconds: the value went through here before
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"a duration needs a unit: write {value}s, or {value}m")
    if not isinstance(value, str) or not re.match(DURATION_PATTERN, value):
        raise ValueError("expected a duration such as 90s, 10m or 1h30m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))
    if seconds > LONGEST_DURATION:
        raise ValueError("a duration may be ten years (3650d) at most")
    return seconds


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["90s", "10m", "1h"]}),
]
"""Seconds, written as ``90s``, ``10m``, ``1h``."""

Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
StrictText = Annotated[str, Field(strict=True)]
OptionValue = JsonValue
"""A backend option as written: scalar, list or mapping; ``False``, ``0`` and ``""`` are given values, not absent ones."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ServerSpec(_Model):
    """Where the daemon listens and how it treats the host."""

    host: StrictText = Field("127.0.0.1", description="Address to listen on. LLAMACTL_HOST wins.")
    port: Port = Field(8080, description="Port to listen on. LLAMACTL_PORT wins.")
    port_range: StrictText = Field(
        "8100-8999", pattern=r"^\d{1,5}-\d{1,5}$", description="Ports that backends are given, first-last."
    )
    allow_backend_hosts: tuple[StrictText, ...] = Field(
        (), strict=False, description="Addresses other than loopback that an instance may listen on."
    )
    allowed_hosts: tuple[StrictText, ...] = Field(
        (), strict=False, description="Further Host header values to answer to (a reverse proxy's name)."
    )
    cors_origins: tuple[StrictText, ...] = Field(
        (), strict=False, description="Origins whose pages may call the inference routes."
    )
    max_parallel_replacements: int = Field(2, ge=1, description="How many instances are replaced at a time.")
    orphan_ttl: Duration = Field(
        3600.0, description="A backend whose daemon stays away this long ends itself; 0s means never."
    )
    max_body_size: int = Field(64 * 1024 * 1024, ge=1024, description="Largest request body that is accepted, bytes.")

    def ports(self) -> tuple[int, int]:
        """First and last port for backends."""
        first, _, last = self.port_range.partition("-")
        return int(first), int(last)


class KeySource(_Model):
    """One key: exactly one of file, env, sha256, value."""

    name: StrictText | None = Field(None, description="Name shown in logs and status in place of the key.")
    file: StrictText | None = Field(
        None, description="File whose first line is the key; must not be readable by others."
    )
    env: StrictText | None = Field(None, description="Environment variable that holds the key.")
    sha256: StrictText | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="SHA-256 of the key, in hex.")
    value: StrictText | None = Field(
        None, min_length=1, description="The key itself (use file or sha256 in shared files)."
    )


class InferenceKeySource(KeySource):
    """A key for the OpenAI routes."""

    instances: tuple[StrictText, ...] | None = Field(
        None, strict=False, description="Instances this key may use; absent means all."
    )


class AuthSpec(_Model):
    """Who may call. Without any key the daemon serves on loopback only."""

    management_keys: tuple[KeySource, ...] = Field(
        (), strict=False, description="Keys for /api/v1 (they open /v1 too)."
    )
    inference_keys: tuple[InferenceKeySource, ...] = Field((), strict=False, description="Keys for /v1.")


Environment = Mapping[str, StrictText | None]


class BackendsSpec(_Model):
    """Which programs run the backends. A string is split as a shell would; no shell is involved."""

    llama_executable: StrictText = Field("llama-server", min_length=1, description="LLAMACTL_LLAMA_EXECUTABLE wins.")
    mlx_lm_executable: StrictText = Field("mlx_lm.server", min_length=1, description="LLAMACTL_MLX_LM_EXECUTABLE wins.")
    vllm_executable: StrictText = Field("vllm", min_length=1, description="LLAMACTL_VLLM_EXECUTABLE wins.")
    environment: Environment = Field(default_factory=dict, description="Variables for every backend; null unsets one.")


class InstanceState(StrEnum):
    """What is asked for."""

    RUNNING = "running"
    ON_DEMAND = "on_demand"


class RestartSpec(_Model):
    """What happens after an exit that nobody asked for (exit code 0 included)."""

    policy: Literal["always", "on_failure", "never"] = Field(
        "always",
        description="Whether it is started again. An exit that nobody asked for is a failure, whatever its code.",
    )
    max_restarts: int | None = Field(None, ge=0, description="Give up after so many restarts in a row; null: no limit.")
    initial_delay: Duration = Field(1.0, description="Wait before the first restart; doubles each time.")
    max_delay: Duration = Field(300.0, description="Longest wait between restarts.")
    reset_after: Duration = Field(600.0, description="Failures are forgotten after so long in health.")


class ProbeSpec(_Model):
    """Liveness of a ready replica; a probe never counts as use."""

    interval: Duration = Field(10.0, gt=0, description="Pause between two probes.")
    timeout: Duration = Field(5.0, gt=0, description="How long one probe may take.")
    failure_threshold: int = Field(3, ge=1, description="Probes without an answer in a row that count as a hang.")


class StopSpec(_Model):
    """How a replica is ended."""

    drain_timeout: Duration = Field(30.0, description="How long running requests may take to finish.")
    signal: Literal["SIGTERM", "SIGINT", "SIGQUIT"] = Field(
        "SIGTERM", description="What its main process is told to end with."
    )
    grace: Duration = Field(20.0, description="From the signal to SIGKILL for everything that is left.")


class UpdateSpec(_Model):
    """How a changed instance is replaced."""

    strategy: Literal["auto", "start_first", "stop_first"] = Field(
        "auto",
        description="Whether the new process starts beside the old one or after it; auto: beside it, unless both want one port.",
    )
    rollback: bool = Field(
        True, description="Keep or return to the last revision that was ready when the new one is given up."
    )
    attempts: int = Field(3, ge=1, description="Failed starts after which a new revision is given up.")


class QueueSpec(_Model):
    """Requests that wait for an instance that is starting."""

    length: int = Field(1000, ge=0, description="How many may wait.")
    timeout: Duration | None = Field(None, description="How long one may wait; default: on_demand_start_timeout.")


@dataclass(frozen=True, slots=True)
class _Expanded:
    """Where variables stood; equal to any other, because it is no part of what a declaration means."""

    paths: frozenset[str] = field(default=frozenset(), compare=False)


class InstanceSpec(_Model):
    """One declared instance, merged with ``defaults``."""

    _expanded: _Expanded = PrivateAttr(default_factory=_Expanded)

    backend_type: StrictText = Field(description="Which server runs it.")
    backend_options: Mapping[str, OptionValue] = Field(
        default_factory=dict, description="The server's own flags, with dashes or underscores."
    )
    enabled: bool = Field(True, description="false stops the instance and keeps its declaration.")
    state: InstanceState = Field(
        InstanceState.RUNNING, strict=False, description="running, or on_demand: started by the first request."
    )
    replicas: int = Field(1, ge=1, le=64, description="How many processes serve this name.")
    aliases: tuple[StrictText, ...] = Field((), strict=False, description="Other names that requests may use.")
    executable: StrictText | None = Field(
        None, min_length=1, description="Program for this instance alone; split as a shell would."
    )
    extra_args: tuple[StrictText, ...] = Field(
        (), strict=False, description="Raw arguments, passed on in order, untouched."
    )
    environment: Environment = Field(default_factory=dict, description="Variables; null unsets one.")
    inherit_environment: bool | Annotated[tuple[StrictText, ...], Field(strict=False)] = Field(
        True,
        union_mode="left_to_right",
        description="false or a list narrows what is inherited from the daemon.",
    )
    working_directory: StrictText | None = Field(None, min_length=1, description="Folder in which it runs.")
    port: Port | None = Field(None, description="Pins the port; otherwise one is assigned from server.port_range.")
    labels: Mapping[str, StrictText] = Field(default_factory=dict, description="Free text for people and tools.")
    start_timeout: Duration | None = Field(None, description="How long a start may take (vLLM 20m, others 5m).")
    on_demand_start_timeout: Duration = Field(600.0, description="How long a request may wait for a start.")
    idle_timeout: Duration | None = Field(None, description="on_demand only: stop after so long without a request.")
    queue: QueueSpec = Field(default_factory=QueueSpec)
    restart: RestartSpec = Field(default_factory=RestartSpec)
    probe: ProbeSpec = Field(default_factory=ProbeSpec)
    stop: StopSpec = Field(default_factory=StopSpec)
    update: UpdateSpec = Field(default_factory=UpdateSpec)

    def marked(self, expanded: Iterable[str]) -> Self:
        """The same declaration, knowing which settings (as :func:`reconciler.core.changes.leaf_path` spells them) held a variable."""
        copy = self.model_copy()
        copy._expanded = _Expanded(frozenset(expanded))
        return copy

    @property
    def expanded(self) -> frozenset[str]:
        """Settings whose value came from a variable and is shown to nobody; no part of the schema, a dump or a comparison."""
        return self._expanded.paths


class FileSpec(_Model):
    """The document as a whole; ``defaults`` and ``instances`` are checked key by key by the loader before they are merged."""

    server: ServerSpec = Field(default_factory=ServerSpec)
    auth: AuthSpec = Field(default_factory=AuthSpec)
    backends: BackendsSpec = Field(default_factory=BackendsSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """A key as the daemon holds it: never the key, only its digest."""

    name: str
    digest: bytes = field(repr=False)
    """SHA-256 of the key, 32 bytes."""
    instances: frozenset[str] | None = None
    """Names this key may use; None means all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """One accepted file (or folder of files), whole and immutable."""

    server: ServerSpec
    backends: BackendsSpec
    instances: Mapping[str, InstanceSpec]
    """By name, in the file's order, merged with ``defaults``, variables expanded."""
    management_keys: tuple[AccessKey, ...] = ()
    inference_keys: tuple[AccessKey, ...] = ()
    warnings: tuple[Problem, ...] = ()
    content_hash: str = ""
    """SHA-256 over the bytes that were read, hex; says whether the file changed, not whether its meaning did."""
