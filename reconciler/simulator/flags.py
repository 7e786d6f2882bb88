"""The simulator's command line: our own fault flags as one table, and the few flags of the real servers that it obeys.

Every other flag of the real servers is accepted and ignored. Nothing here knows what a fault does, and nothing here
imports more than the standard library's cheap parts, because dozens of simulators start in one test run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

Kind: TypeAlias = Literal["vllm", "llama_cpp", "mlx_lm"]
Value: TypeAlias = bool | int | float | str | None

KINDS: Mapping[str, Kind] = {
    "vllm": "vllm",
    "llama_cpp": "llama_cpp",
    "llama-cpp": "llama_cpp",
    "mlx_lm": "mlx_lm",
    "mlx-lm": "mlx_lm",
    "mlx": "mlx_lm",
}
"""Accepted spellings of a personality."""

PROGRAMS: Mapping[Kind, str] = {"vllm": "vllm serve", "llama_cpp": "llama-server", "mlx_lm": "mlx_lm.server"}
"""How messages name the program that is acted."""

DEFAULT_PORTS: Mapping[Kind, int] = {"vllm": 8000, "llama_cpp": 8080, "mlx_lm": 8080}
"""The ports the real servers take when nobody says one."""

DEFAULT_MODELS: Mapping[Kind, str] = {"vllm": "Qwen/Qwen3-0.6B", "llama_cpp": "default", "mlx_lm": "default_model"}
"""What the real servers call their model when nobody names one (vLLM 0.32 and mlx_lm 0.32 defaults)."""

USAGE_EXIT = 2
"""Exit code for a command line that cannot be read, as argparse has it."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of the simulator itself: long name without dashes, type, default (None: off) and one line of help."""

    name: str
    type: Literal["bool", "int", "float", "str"]
    default: Value
    help: str


SIMULATOR_FLAGS: tuple[Flag, ...] = (
    Flag("load-seconds", "float", 0.0, "seconds between the start and readiness"),
    Flag("ttft-ms", "float", 0.0, "milliseconds from a request to its first token"),
    Flag("token-delay-ms", "float", 0.0, "milliseconds between two tokens"),
    Flag(
        "fail-start", "bool", False, "after load-seconds, print an error and exit (code 1 unless exit-code says other)"
    ),
    Flag("exit-after-seconds", "float", None, "exit so many seconds after readiness"),
    Flag("exit-after-requests", "int", None, "exit once so many inference requests have ended"),
    Flag(
        "exit-code",
        "int",
        None,
        "the code of the exits above; default 1 for fail-start and 0 for the others (as a vLLM whose worker died); "
        "with die-mid-stream-after the default is death by SIGKILL",
    ),
    Flag("hang-after-requests", "int", None, "from the next request on nothing generates any more; health stays good"),
    Flag("ignore-sigterm", "bool", False, "SIGTERM does nothing"),
    Flag("children", "int", 0, "start so many child processes that ignore SIGTERM and outlive the simulator"),
    Flag("die-mid-stream-after", "int", None, "die once one stream has sent so many tokens, without an end"),
    Flag("log-lines-per-second", "float", 0.0, "write so many log lines per second to stderr"),
    Flag("call-log", "str", None, "append one JSON line per inference request to this file"),
    Flag("response-pad", "int", 0, "bytes of padding in every streamed chunk and every whole answer"),
)
"""The simulator's own options, in the order of the help text. `backend_type: simulator` offers the same names."""

_BY_NAME: Mapping[str, Flag] = {flag.name: flag for flag in SIMULATOR_FLAGS}

_COMMON_VALUES = {"--host": "host", "--port": "port", "--model": "model"}
_SERVER_VALUES: Mapping[Kind, Mapping[str, str]] = {
    "vllm": {**_COMMON_VALUES, "--api-key": "api_key", "--served-model-name": "names"},
    "llama_cpp": {
        **_COMMON_VALUES,
        "-m": "model",
        "-a": "names",
        "--alias": "names",
        "--api-key": "api_key",
        "--api-key-file": "api_key_file",
        "-hf": "hub",
        "-hfr": "hub",
        "--hf-repo": "hub",
    },
    "mlx_lm": _COMMON_VALUES,
}
_SERVER_SWITCHES: Mapping[Kind, frozenset[str]] = {
    "vllm": frozenset({"enable-sleep-mode", "enable-log-requests", "enable-log-outputs"}),
    "llama_cpp": frozenset({"metrics"}),
    "mlx_lm": frozenset(),
}
_LISTS: Mapping[Kind, frozenset[str]] = {
    "vllm": frozenset({"names", "api_key"}),  # nargs="+" in vLLM
    "llama_cpp": frozenset(),
    "mlx_lm": frozenset(),
}
_KEY_VARIABLES: Mapping[Kind, str | None] = {"vllm": "VLLM_API_KEY", "llama_cpp": "LLAMA_API_KEY", "mlx_lm": None}
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


class UsageError(Exception):
    """The command line cannot be obeyed; `code` is what the real server would exit with."""

    def __init__(self, message: str, *, code: int = USAGE_EXIT) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Options:
    """A simulator's whole configuration. Times are seconds unless a name ends in `_ms`; None means off."""

    kind: Kind
    model: str
    names: tuple[str, ...]
    host: str
    port: int
    api_keys: tuple[str, ...] = field(repr=False)
    doubts: tuple[str, ...]
    """What the real server would have refused and the simulator only says in its log."""
    sleep_routes: bool
    metrics: bool
    load_seconds: float
    ttft_ms: float
    token_delay_ms: float
    fail_start: bool
    exit_after_seconds: float | None
    exit_after_requests: int | None
    exit_code: int | None
    hang_after_requests: int | None
    ignore_sigterm: bool
    children: int
    die_mid_stream_after: int | None
    log_lines_per_second: float
    call_log: str | None
    response_pad: int

    @property
    def program(self) -> str:
        """The name of the program that is acted."""
        return PROGRAMS[self.kind]


@dataclass(slots=True)
class _Read:
    """What one walk over the arguments found."""

    values: dict[str, list[str]] = field(default_factory=dict)
    switches: dict[str, bool] = field(default_factory=dict)
    faults: dict[str, Value] = field(default_factory=dict)
    positional: str | None = None


def parse(kind: Kind, argv: Sequence[str], *, environ: Mapping[str, str] = os.environ) -> Options:
    """Reads a server's arguments, ours mixed among them in any order and spelling (dashes or underscores).

    Raises `UsageError` for values of our own flags that make no sense. A pair of flags that the real server refuses is only a
    doubt: a rehearsal should get as far as it can, and validation has warned of the pair already.
    """
    read = _walk(kind, argv)
    doubts: tuple[str, ...] = ()
    if read.switches.get("enable-log-outputs") and not read.switches.get("enable-log-requests"):
        doubts = ("the real vLLM does not start with --enable-log-outputs alone; try adding --enable-log-requests",)
    model = _last(read.values, "model") or read.positional or _last(read.values, "hub") or DEFAULT_MODELS[kind]
    faults: dict[str, Value] = {flag.name: flag.default for flag in SIMULATOR_FLAGS} | read.faults
    return Options(
        kind=kind,
        doubts=doubts,
        model=model,
        names=_names(kind, read.values.get("names", [])) or (model,),
        host=_last(read.values, "host") or "127.0.0.1",
        port=_port(kind, _last(read.values, "port")),
        api_keys=_api_keys(kind, read.values, environ),
        sleep_routes=read.switches.get("enable-sleep-mode", False) and environ.get("VLLM_SERVER_DEV_MODE") == "1",
        metrics=kind == "vllm" or read.switches.get("metrics", False),
        load_seconds=cast("float", faults["load-seconds"]),
        ttft_ms=cast("float", faults["ttft-ms"]),
        token_delay_ms=cast("float", faults["token-delay-ms"]),
        fail_start=cast("bool", faults["fail-start"]),
        exit_after_seconds=cast("float | None", faults["exit-after-seconds"]),
        exit_after_requests=cast("int | None", faults["exit-after-requests"]),
        exit_code=cast("int | None", faults["exit-code"]),
        hang_after_requests=cast("int | None", faults["hang-after-requests"]),
        ignore_sigterm=cast("bool", faults["ignore-sigterm"]),
        children=cast("int", faults["children"]),
        die_mid_stream_after=cast("int | None", faults["die-mid-stream-after"]),
        log_lines_per_second=cast("float", faults["log-lines-per-second"]),
        call_log=cast("str | None", faults["call-log"]),
        response_pad=cast("int", faults["response-pad"]),
    )


def _walk(kind: Kind, argv: Sequence[str]) -> _Read:
    """Sorts the arguments. A bare word is the model only where no unknown flag can claim it as its value."""
    read = _Read()
    index = 0
    serve_may_come = kind == "vllm"
    claimed = False
    while index < len(argv):
        word = argv[index]
        index += 1
        if not word.startswith("-") or word == "-":
            if serve_may_come and word == "serve" and not claimed:
                serve_may_come = False
            elif kind == "vllm" and not claimed and read.positional is None:
                read.positional = word
                serve_may_come = False
            continue
        name, has_value, inline = word.partition("=")
        name = name if name in _SERVER_VALUES[kind] else name.replace("_", "-")
        following = [inline] if has_value else list(argv[index : index + 1])
        taken = _take(kind, name, read, following=following, inline=bool(has_value))
        claimed = taken is None and not has_value
        index += 0 if has_value else taken or 0
        if taken and _SERVER_VALUES[kind].get(name) in _LISTS[kind]:
            while not has_value and index < len(argv) and not argv[index].startswith("-"):
                read.values[_SERVER_VALUES[kind][name]].append(argv[index])
                index += 1
    return read


def _take(kind: Kind, name: str, read: _Read, *, following: Sequence[str], inline: bool) -> int | None:
    """Stores one flag and returns how many words it used after itself; None for a flag that is not ours to obey."""
    key = _SERVER_VALUES[kind].get(name)
    if key is not None:
        if not following:
            raise UsageError(f"argument {name}: expected one argument")
        bucket = read.values.setdefault(key, [])
        if key != "api_key" or kind == "vllm":
            bucket.clear()
        bucket.append(following[0])
        return 1
    bare = name.removeprefix("--")
    negative = bare.startswith("no-")
    switch = bare.removeprefix("no-")
    flag = _BY_NAME.get(switch if negative else bare)
    if switch in _SERVER_SWITCHES[kind] or (flag is not None and flag.type == "bool"):
        on = _boolean(name, following[0]) if inline else True
        if flag is not None:
            read.faults[flag.name] = on != negative
        else:
            read.switches[switch] = on != negative
        return 0
    if flag is None or negative:
        return None
    if not following:
        raise UsageError(f"argument {name}: expected one argument")
    read.faults[flag.name] = _number(flag, following[0])
    return 1


def _number(flag: Flag, text: str) -> Value:
    if flag.type == "str":
        return text
    try:
        number = int(text) if flag.type == "int" else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"argument --{flag.name}: invalid {flag.type} value: {text!r}")
    if number < 0 or (flag.name == "exit-code" and number > 255):
        raise UsageError(f"argument --{flag.name}: {text} is out of range")
    return number


def _boolean(name: str, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise UsageError(f"argument {name}: invalid boolean value: {text!r}; try true or false")


def _last(values: Mapping[str, list[str]], key: str) -> str | None:
    found = values.get(key)
    return found[-1] if found else None


def _port(kind: Kind, text: str | None) -> int:
    if text is None:
        return DEFAULT_PORTS[kind]
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise UsageError(f"argument --port: {text!r} is not a port; try a number from 0 (any free one) to 65535")
    return int(text)


def _names(kind: Kind, given: Sequence[str]) -> tuple[str, ...]:
    """The served names: a list for vLLM (also as JSON), comma-separated for llama-server."""
    if kind == "llama_cpp":
        return tuple(part.strip() for text in given for part in text.split(",") if part.strip())
    if len(given) == 1 and given[0].startswith("["):
        try:
            decoded = json.loads(given[0])
        except ValueError:
            return tuple(given)
        return tuple(str(name) for name in decoded)
    return tuple(given)


def _api_keys(kind: Kind, values: Mapping[str, list[str]], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Keys by flag win over the environment; llama-server takes several with commas, and a file of one per line."""
    variable = _KEY_VARIABLES[kind]
    given = list(values.get("api_key", ()))
    if not given and variable is not None:
        given = [environ.get(variable, "")]
    if kind == "llama_cpp":
        given = [part for text in given for part in text.split(",")]
        path = _last(values, "api_key_file")
        if path is not None:
            try:
                with open(path, encoding="utf-8") as file:
                    given.extend(file.read().split("\n"))
            except OSError as error:
                raise UsageError(f"error: failed to open file '{path}': {error.strerror}", code=1) from None
    return tuple(key.strip() for key in given if key.strip())


def help_text(kind: Kind) -> str:
    """What `--help` prints."""
    lines = [
        f"usage: simulate {kind} {'serve MODEL ' if kind == 'vllm' else ''}[flags of {PROGRAMS[kind]}] [flags below]",
        "",
        f"Acts like {PROGRAMS[kind]} without model or GPU. Flags of the real server that are not simulated are ignored.",
        "",
    ]
    for flag in SIMULATOR_FLAGS:
        value = "" if flag.type == "bool" else f" {flag.type.upper()}"
        lines.append(f"  --{flag.name}{value}\n      {flag.help}")
    return "\n".join(lines)
