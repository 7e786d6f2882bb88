"""What it takes to compare schema and loader: documents that use everything, ways to spoil them, and both verdicts on the result.

A document is plain data here, as an editor's validator sees it; the loader gets it as JSON, which is YAML. What is wrong with a
text before it is data is tested elsewhere.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from reconciler.backends import discover
from reconciler.backends._values import ValueProblem, item_text
from reconciler.backends._vocabulary import Kind, Option, Type, Vocabulary, load
from reconciler.config._tree import plain
from reconciler.config.document import parse
from reconciler.config.load import load_text
from reconciler.config.schema import file_schema
from reconciler.core.errors import Problem, Rejected

ROOT = Path(__file__).parents[2]
VOCABULARIES = ("vllm", "llama_cpp", "mlx_lm", "simulator")
ENVIRON = {"SET": "x", "NUMBER": "7", "LLAMACTL_ADMIN_KEY": "a-key-of-more-than-twenty-characters", "KEY": "k" * 30}
Data = Any
Path_ = tuple[str | int, ...]

VALUES: tuple[Data, ...] = (
    None, True, False, 0, 1, -1, 7, 1.5, 2.0, 65536, 10**12, "", "text", "5", "-5", "0.5", "1e3", "true", "no", "None", "auto",
    "a,b", "1,2", "1,,2", '"a,b"', "90s", "0s", "10 m", "1h30m", "24GiB", "32k", "1.5k", "2GB", "a b", "a\tb", "a\nb", "7\n",
    "auto\n", "٣", "٣s", "-x", "{", '{"a": 1}', "[1]", "127.0.0.1", "/x", "http://h/v1", "${SET}", "${NUMBER}", "${UNSET}",
    "${UNSET:-x}", "${UNSET:-7}", "$${x}", "${", [], [1], [1, 2], [1.5], ["a"], ["a", "b"], ["a,b"], ["-1", "-x"], [None], [True],
    [[1]], [{}], ["${SET}"], {}, {"a": 1}, {"a": None}, {"x-a": 1}, {"env": "SET"}, [{"env": "KEY"}],
)  # fmt: skip
"""One of every shape that a value may have, most of them wrong in most places."""

WORDS: Mapping[str, str] = {
    "whole": r"not '?-?[\d.]+\.0\b|number [\d.]+\.0\b|Input should be a valid integer|expected a valid integer",
    "variables": r"environment variable|value of [A-Z]|without a variable's name",
    "spellings": r"are the same option|is given twice$",
    "durations": r"ten years|greater than 0",
    "names": r"differ by case|alias|as an instance name",
    "keys": r"key needs exactly one|key file|same key|no instance is called|there is no key",
    "ports": r"^port |range of ports",
    "hosts": r"not a loopback|host takes one|not an http or https url|holds a password",
    "commands": r"cannot split|is empty|must not be empty|is llamactl's to give|takes no (?:extra_args|executable)|has no meaning for"
    r"|would end the flags|the argument holds|says? where the port goes|in a container|show a secret|print something",
    "rules": r"needs a|adds to|cannot begin with a dash|refuses to start|, which vLLM refuses|llama-server refuses|without chunked prefill"
    r"|cannot be divided by|is more than|is not below",
    "values": r"reads as a flag|joined by commas|knows no infinity",
}
"""How a refusal of the loader is recognised as one of ``LOADER_ONLY``; ``text`` and ``defaults`` go by place, not by words."""

READ_BY_THE_SERVER = r"JSON| takes .*\bnumber (?:from|of at least|at most|above|below) "
"""In a refusal of a text: that it is no JSON, or a number beyond a limit."""


@lru_cache(maxsize=1)
def validator() -> Draft202012Validator:
    """The generated schema of the real backends, as an editor applies it."""
    return Draft202012Validator(file_schema(discover()))


def refused(document: Data) -> tuple[Problem, ...]:
    """What the loader says against a document; empty when it takes it."""
    text = json.dumps(document)
    try:
        load_text(text.encode(), name="f.yaml", backends=discover(), environ=ENVIRON, root=ROOT / "examples" / "f.yaml")
    except Rejected as refusal:
        return refusal.problems
    return ()


def kinds_of(problem: Problem, document: Data) -> set[str]:
    """The entries of ``LOADER_ONLY`` that a refusal falls under; empty for one that the schema should have made."""
    found = {name for name, pattern in WORDS.items() if re.search(pattern, problem.message)}
    if problem.path.startswith("defaults.backend_options") and not _is_own_kind(document):
        found.add("defaults")
    if problem.path.endswith("executable"):
        found.add("commands")
    here, kinds = _found(document, problem.path)
    if isinstance(here, str) and re.search(READ_BY_THE_SERVER, problem.message):
        found.add("values")
    if any("${" in text for text in (here, *kinds) if isinstance(text, str)):
        found.add("variables")
    return found


def _is_own_kind(document: Data) -> bool:
    """Whether every instance has the backend_type of ``defaults``, so that an editor knows what the options there are for."""
    defaults, instances = document["defaults"], document.get("instances")
    kinds = {one.get("backend_type") for one in (instances or {}).values() if isinstance(one, dict)}
    return "backend_type" in defaults and kinds <= {None, defaults["backend_type"]}


def _found(document: Data, path: str) -> tuple[Data, list[Data]]:
    """The value at a problem's path, or the deepest one on the way; and each backend_type that decides about it."""
    here, kinds = document, []
    while path:
        path = path.lstrip(".[]")
        if isinstance(here, dict):
            kinds.append(here.get("backend_type"))
            step = max((key for key in here if re.match(rf"{re.escape(key)}(?:[.\[]|$)", path)), key=len, default=None)
        else:
            number = re.match(r"\d+", path)
            step = number[0] if number and isinstance(here, list) and int(number[0]) < len(here) else None
        if step is None:
            break
        path = path.removeprefix(step)
        here = here[step] if isinstance(here, dict) else here[int(step)]
    return here, kinds


@lru_cache(maxsize=1)
def examples() -> Mapping[str, Data]:
    """Every file in ``examples/``, as data."""
    files = sorted((ROOT / "examples").rglob("*.yaml"))
    return {file.name: plain(parse(file.read_bytes(), name=file.name).root) for file in files}


CANDIDATES: Mapping[Type, tuple[Data, ...]] = {
    Type.BOOL: (True,),
    Type.INT: (3, 1, 64, 1024),
    Type.FLOAT: (0.5, 1.5),
    Type.STR: ("text",),
    Type.ANY: ("word",),
    Type.JSON: ({"a": [1]},),
}


def _takes(option: Option, value: Data) -> bool:
    if option.type is Type.BOOL:
        return True
    try:
        item_text(option, value)
    except ValueProblem:
        return False
    return True


def good_value(option: Option, *, again: bool = False) -> Data:
    """A value that the option takes; another one for ``again``, where there is another."""
    item: Data
    if option.choices:
        item = option.choices[-1 if again else 0]
    elif option.words and again:
        item = option.words[0]
    else:
        item = next(value for value in CANDIDATES[option.type] if _takes(option, value))
    match option.kind:
        case Kind.SWITCH:
            return True
        case Kind.VALUE:
            return item
        case Kind.TUPLE:
            return [item] * option.count
        case Kind.LIST | Kind.APPEND | Kind.COMMA:
            return [item] if again else item


def settable(kind: str) -> list[tuple[str, Option]]:
    """Every key of a backend that an instance may set, with its option, under the first spelling."""
    vocabulary: Vocabulary = load(kind)
    known: Mapping[str, object] = discover()[kind].options_schema()["properties"]  # type: ignore[assignment]  # a schema's own
    return [
        (option.name, option) for option in vocabulary if option.name in known and option.name not in ("host", "port")
    ]


def rich() -> dict[str, Data]:
    """Documents that use every section, every setting, and many options of every backend in both spellings."""
    made: dict[str, Data] = {"settings": copy.deepcopy(SETTINGS), "inherited": copy.deepcopy(INHERITED)}
    idle = {
        "backend_type": "vllm",
        "backend_options": {"dtype": "half", "host": "localhost", "enable_prefix_caching": True},
    }
    made["idle"] = {"defaults": idle, "instances": None}
    for kind in VOCABULARIES:
        options: dict[str, Data] = {}
        for number, (name, option) in enumerate(settable(kind)):
            if number % 7 == 0 or name == "model":
                options[name if number % 2 else name.replace("_", "-")] = good_value(option, again=number % 3 == 0)
        made[kind] = {"instances": {"one": {"backend_type": kind, "backend_options": options}}}
    return made


SETTINGS: Data = {
    "x-note": {"anything": [1]},
    "server": {
        "host": "127.0.0.1", "port": 8080, "port_range": "8100-8999", "allow_backend_hosts": ["10.0.0.1"],
        "allowed_hosts": ["llm.example"], "cors_origins": ["https://x.example"], "max_parallel_replacements": 2,
        "orphan_ttl": "1h", "max_body_size": 4096, "x-why": 1,
    },
    "auth": {
        "management_keys": [{"env": "KEY", "name": "ops"}, {"sha256": "a" * 64}],
        "inference_keys": [{"value": "v" * 30, "instances": ["one"]}],
    },
    "backends": {
        "llama_executable": "llama-server", "mlx_lm_executable": "mlx_lm.server", "vllm_executable": "python -m vllm",
        "environment": {"A": "b", "C": None},
    },
    "defaults": {"idle_timeout": "30m", "restart": {"policy": "on_failure"}, "labels": {"team": "a"}},
    "instances": {
        "one": {
            "backend_type": "llama_cpp",
            "backend_options": {"model": "/m.gguf", "ctx-size": 8192, "x-mark": [1]},
            "enabled": True, "state": "on_demand", "replicas": 1, "aliases": ["gemma", "a/b"], "executable": "llama-server",
            "extra_args": ["--unknown-flag", "1"], "environment": {"HF_TOKEN": "${SET}", "X": None}, "inherit_environment": ["PATH"],
            "working_directory": "/tmp", "port": 8101, "labels": {"a": "b"}, "start_timeout": "5m",
            "on_demand_start_timeout": "90s", "idle_timeout": "10m", "queue": {"length": 5, "timeout": "30s"},
            "restart": {"policy": "always", "max_restarts": 3, "initial_delay": "1s", "max_delay": "5m", "reset_after": "10m"},
            "probe": {"interval": "10s", "timeout": "5s", "failure_threshold": 3},
            "stop": {"drain_timeout": "30s", "signal": "SIGINT", "grace": "20s"},
            "update": {"strategy": "auto", "rollback": False, "attempts": 3},
        },
        "two": {"backend_type": "custom", "backend_options": {"command": ["run", "{port}"], "health-path": "/ok", "model": "m"}},
        "three": {
            "backend_type": "external",
            "backend_options": {"url": "https://h.example/v1", "model": "m", "api_key": {"env": "KEY"}},
        },
        "four": {"backend_type": "simulator", "inherit_environment": False, "queue": None, "environment": None},
        "x-five": {"backend_type": "nothing"},
    },
}  # fmt: skip

INHERITED: Data = {
    "defaults": {
        "backend_type": "vllm",
        "backend_options": {"dtype": "half", "gpu-memory-utilization": 0.5},
        "replicas": 2,
    },
    "instances": {
        "a": {"backend_options": {"model": "m", "max_model_len": "32k", "speculative-config.model": "d"}},
        "b": {
            "backend_options": {
                "model": "m",
                "dtype": "auto",
                "hf_overrides": {"a": {"x-b": 1}},
                "enable_prefix_caching": False,
            }
        },
    },
}


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A document after one change, and what was changed."""

    change: str
    document: Data


def places(node: Data, path: Path_ = ()) -> Iterator[Path_]:
    """Every place of a document, the whole included."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, item in items:
        yield from places(item, (*path, step))


def changed(document: Data, path: Path_, value: Data) -> Data:
    """A copy with another value at an existing place."""
    if not path:
        return value
    result = copy.copy(document)
    result[path[0]] = changed(document[path[0]], path[1:], value)
    return result


def value_at(document: Data, path: Path_) -> Data:
    """What stands at an existing place."""
    for step in path:
        document = document[step]
    return document


def spoiled(document: Data, path: Path_) -> Iterator[Spoiled]:
    """Every change of one place that is tried: its value, its shape, its key, its neighbours."""
    here = value_at(document, path)
    for value in (*VALUES, [here], {"a": here}):
        if path or isinstance(value, dict):
            yield Spoiled(f"{path} := {value!r}", changed(document, path, value))
    if isinstance(here, dict):
        for key in (
            "unknown",
            "x-new",
            "Model",
            "model",
            "backend_options",
            "tensor-parallel-size",
            "a=b",
            "",
            "a/b",
            "x-a/b",
            "n\n",
        ):
            if key not in here:
                for value in (1, None, {"a": "b"}):
                    yield Spoiled(f"{path} + {key!r}: {value!r}", changed(document, path, {**here, key: value}))
    if path and isinstance(path[-1], str):
        yield from _with_other_key(document, path[:-1], path[-1])


def _with_other_key(document: Data, above: Path_, key: str) -> Iterator[Spoiled]:
    table = value_at(document, above)
    without = {name: value for name, value in table.items() if name != key}
    yield Spoiled(f"{above} - {key}", changed(document, above, without))
    swapped = key.replace("_", "-") if "_" in key else key.replace("-", "_")
    for other in (key + "s", key[1:] or "z", key.upper(), swapped, f"x-{key}", f"{key}.a", f"--{key}"):
        yield Spoiled(f"{above}: {key} -> {other}", changed(document, above, {**without, other: table[key]}))
    if swapped != key:
        yield Spoiled(f"{above}: {key} and {swapped}", changed(document, above, {**table, swapped: table[key]}))


def disagreement(one: Spoiled) -> str | None:
    """Why the two verdicts on a document differ in a way that is not allowed; None when they do not."""
    errors = list(validator().iter_errors(one.document))
    problems = refused(one.document)
    if errors and not problems:
        return f"{one.change}\nonly the schema refuses: {errors[0].message[:300]} at {list(errors[0].absolute_path)}"
    if problems and not errors:
        unknown = [problem for problem in problems if not kinds_of(problem, one.document)]
        if unknown:
            return f"{one.change}\nonly the loader refuses, and LOADER_ONLY does not say why: {unknown[0]}"
    return None
