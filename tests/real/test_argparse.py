"""The argv that we render means to the real servers what the options mean: their own parsers read it, and nothing differs.

vLLM and mlx_lm.server: their argparse, in their own interpreter, over every option and a thousand drawn sets. llama-server has no
parser to be asked, but it reads its words in order: behind our argv a flag that prints and ends is reached only when all was taken.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from reconciler.backends._flags import render_options
from reconciler.backends._vocabulary import Kind, Option, Type, Vocabulary, load
from tests.backends import broken
from tests.backends.values import free
from tests.real.conftest import Declare
from tests.real.servers import LLAMA_CPP, MLX_LM, VLLM, RealServer

pytestmark = pytest.mark.real

Options = dict[str, JsonValue]
SCRIPT = Path(__file__).parent / "read_argv.py"
READY = "ready: "
SIZES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
OURS = ("host", "port", "model", "config")
"""Left out of drawn sets: host and port are llamactl's, the model is a word of its own, and a config file would be opened."""

CONFIGS: Mapping[str, list[JsonValue]] = {
    "quantization_config": [{"ignore": ["a b", "c"]}],
    "pooler_config": [{"pooling_type": "LAST", "use_activation": False, "dimensions": 64}],
    "eplb_config": [{"window_size": 500, "use_async": False}],
    "fault_tolerance_config": [{"engine_recovery_timeout_sec": 5}],
    "logging_config": [{"log_level": "WARNING", "formatter": "json"}],
    "ir_op_priority": [{"rms_norm": ["native"]}],
    "kv_transfer_config": [{"kv_connector": "ExampleConnector", "kv_role": "kv_both", "kv_connector_extra_config": {"a.b": [1, "é"]}}],
    "kv_events_config": [{"enable_kv_cache_events": False, "endpoint": "tcp://*:5557", "topic": ""}],
    "ec_transfer_config": [{"ec_connector": "x", "ec_role": "ec_producer", "ec_buffer_size": 1.5e9}],
    "ec_manager_config": [{"encoder_cache_manager_cls": "a.b.C", "manager_config": {"size": 1}}],
    "compilation_config": [{"mode": 3, "cudagraph_capture_sizes": [1, 2, 4], "custom_ops": ["+rms_norm", "-silu"]}],
    "attention_config": [{"flash_attn_version": 2, "use_trtllm_attention": False}],
    "engram_config": [{"cpu_offload": True, "dp_shared_memory": False}],
    "reasoning_config": [{"reasoning_start_str": "<think>\n", "reasoning_end_str": "</think>"}],
    "kernel_config": [{"moe_backend": "triton", "enable_jit_warmup": False}],
    "structured_outputs_config": [{"backend": "xgrammar", "disable_any_whitespace": True}],
    "aux_output_config": [{"max_bytes": 1}],
    "profiler_config": [{"profiler": "torch", "torch_profiler_dir": "/tmp/a b"}],
    "weight_transfer_config": [{"backend": "nccl"}],
}  # fmt: skip
"""Options that vLLM reads into objects of its own, which know their keys: one good value each, beside the empty mapping."""
FILES = {
    "text.gbnf": 'root ::= "a"',
    "schema.json": '{"type": "object"}',
    "key.txt": "k",
    "a b.txt": "{{ x }}",
    "m.ini": "",
}
LLAMA: Mapping[str, list[JsonValue]] = {
    **{
        name: ["0x3", "F"]
        for name in ("cpu_mask", "cpu_mask_batch", "spec_draft_cpu_mask", "spec_draft_cpu_mask_batch")
    },
    **{name: ["0-1"] for name in ("cpu_range", "cpu_range_batch", "spec_draft_cpu_range")},
    **{name: ["none", ["none"]] for name in ("device", "spec_draft_device")},
    **{name: ["FILES"] for name in ("slot_save_path", "media_path")},
    **{name: ["a b=CPU", ["x=CPU", "y=CPU"]] for name in ("override_tensor", "spec_draft_override_tensor")},
    **{name: ["a b.gguf:0.5", ["a:1", "b:-0.5"]] for name in ("lora_scaled", "control_vector_scaled")},
    "override_kv": ["a=int:-5", ["a=bool:true", "b=str:c d"]],
    "logit_bias": ["15043+1", ["15043+1", "15044-1.5"]],
    "rpc": [],  # left out of this build
    "mmproj_device": ["none"],
    "reasoning_format": ["deepseek", "none"],
    "grammar_file": ["FILES/text.gbnf"],
    "json_schema_file": ["FILES/schema.json"],
    "chat_template_file": ["FILES/a b.txt"],
    "api_key_file": ["FILES/key.txt"],
}
"""What llama-server looks at while it reads its words: values of a form of their own, and files that must be there."""
LORA: list[JsonValue] = ["a=/x y", {"name": "b", "path": "/y", "base_model_name": "é"}]


LORA_READ = [
    {"class": "LoRAModulePath", "name": "a", "path": "/x y", "base_model_name": None, "is_3d_lora_weight": False},
    {"class": "LoRAModulePath", "name": "b", "path": "/y", "base_model_name": "é", "is_3d_lora_weight": False},
]


@dataclass(slots=True)
class Reader:
    """The real parser, waiting for argvs."""

    process: subprocess.Popen[str]
    dests: Mapping[str, str]

    def ask(self, argv: list[str], flags: Mapping[str, str | None], *, configure: bool = False) -> dict[str, Any]:
        """What the parser makes of an argv, and with ``configure`` what follows it in the server."""
        to, answers = self.process.stdin, self.process.stdout
        assert to is not None
        assert answers is not None
        to.write(json.dumps({"argv": argv, "flags": flags, "configure": configure}) + "\n")
        to.flush()
        line = answers.readline()
        assert line, f"the parser's process ended at {argv}"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def reader(declare: Declare, server: RealServer, log: Path) -> Iterator[Reader]:
    """The server's own parser in its own interpreter; importing vLLM takes 8 to 40 s."""
    python = declare("parser", server).executable.parent / "python"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": ""}
    with log.open("w") as heard, subprocess.Popen(
        [python, SCRIPT, server.component],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=heard, text=True, encoding="utf-8", env=environment,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first.startswith(READY), log.read_text()
            yield Reader(process, json.loads(first.removeprefix(READY)))
            process.stdin.close()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def number(option: Option, text: str) -> object:
    """What the servers' converters make of a number's text, sizes included."""
    if option.nullable and text in ("", "None"):
        return None
    if text == "auto":
        return -1
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKmMgGtT])([bB]?)", text) if option.pattern else None
    if found:
        suffix = found[2].lower() if option.name == "prompt_cache_bytes" else found[2]
        return int(float(found[1]) * SIZES[suffix])
    return int(text) if option.type is Type.INT else float(text)


def item(option: Option, value: JsonValue) -> object:
    """What the namespace holds for one item."""
    if option.name == "lora_modules":
        return LORA_READ[LORA.index(value)]
    if option.type is Type.JSON:
        if isinstance(value, str) and option.nullable and value in ("", "None"):
            return None
        plain = isinstance(value, str) and option.text and not re.fullmatch(r"(?s)\s*\{.*\}\s*", value)
        return json.loads(value) if isinstance(value, str) and not plain else value
    text = value if isinstance(value, str) else str(value)
    if option.type in (Type.INT, Type.FLOAT):
        return number(option, text)
    if option.nullable and text in ("", "None"):
        return None
    return text


def expected(option: Option, value: JsonValue) -> object:
    """What the namespace must hold for an option."""
    match option.kind:
        case Kind.SWITCH:
            return value in (True, "true")
        case Kind.VALUE:
            return item(option, value)
        case Kind.COMMA:
            parts = ",".join(map(str, value if isinstance(value, list) else [value])).split(",")
            if option.name == "device_ids":
                return [int(part) if part.strip().isdigit() else part.strip() for part in parts]
            return parts
        case Kind.LIST | Kind.APPEND | Kind.TUPLE:
            return [item(option, part) for part in (value if isinstance(value, list) else [value])]


def compare(parser: Reader, vocabulary: Vocabulary, options: Options) -> None:
    """Render, let the real parser read it, and hold every value against what the options mean."""
    before = ["org/m"] if vocabulary.backend == "vllm" else []
    flags = {
        vocabulary[name].flag: json.dumps(value)
        if name in CONFIGS and not isinstance(value, str)
        else value
        if name in CONFIGS
        else None
        for name, value in options.items()
    }
    argv = [*before, *render_options(vocabulary, options)]
    answer = parser.ask(argv, {flag: text if isinstance(text, str) else None for flag, text in flags.items()})
    assert "error" not in answer, f"{argv}: {answer['error']}"
    assert answer["others"] == [], argv
    assert answer["model"] == (before[0] if before else None)
    for name, value in options.items():
        option = vocabulary[name]
        got, told = answer["values"][option.flag], flags[option.flag]
        want = True if told is not None else expected(option, value)
        assert same(got, want), f"{name}: {value!r} was read as {got!r}"


def same(one: object, other: object) -> bool:
    """Equal, and of the same types all the way down."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def values(option: Option, vocabulary: Vocabulary) -> st.SearchStrategy[JsonValue]:
    """Values that the real converter takes."""
    if option.name in CONFIGS:
        return st.sampled_from([{}, *CONFIGS[option.name], json.dumps(CONFIGS[option.name][0], indent=1)])
    if option.name == "lora_modules":
        return st.lists(st.sampled_from(LORA), min_size=1, max_size=2)
    drawn = free(option, vocabulary.syntax)
    if option.kind is Kind.LIST and option.type is Type.STR:  # vLLM reads both as no item at all: nobody means them
        return drawn.filter(lambda value: not {"", "None"} & {*(value if isinstance(value, list) else [str(value)])})
    return drawn


def drawable(vocabulary: Vocabulary) -> list[Option]:
    """Options that may stand in a drawn set."""
    return [option for option in vocabulary if not option.exits and option.name not in OURS and not option.removed]


def alone(parser: Reader, vocabulary: Vocabulary, option: Option) -> Callable[[JsonValue], None]:
    """The comparison of one option by itself."""

    def law(value: JsonValue) -> None:
        compare(parser, vocabulary, {option.name: value})

    return law


def hold(parser: Reader, vocabulary: Vocabulary, *, each: int, sets: int) -> None:
    """Compare ``each`` drawn values of every option alone, then ``sets`` of several together."""
    options = drawable(vocabulary)
    common: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    for option in options:
        settings(max_examples=each, **common)(given(values(option, vocabulary))(alone(parser, vocabulary, option)))()

    @settings(max_examples=sets, **common)
    @given(st.data())
    def together(data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(options), unique_by=lambda option: option.name, max_size=10))
        compare(parser, vocabulary, {option.name: data.draw(values(option, vocabulary)) for option in chosen})

    together()


def test_vllm_reads_from_our_argv_what_the_options_mean(declare: Declare, tmp_path: Path) -> None:
    vocabulary = load("vllm")
    with reader(declare, VLLM, tmp_path / "log") as parser:
        assert {option.flag for option in vocabulary} <= {*parser.dests, "--model"}
        hold(parser, vocabulary, each=6, sets=300)


def test_vllm_refuses_what_our_rules_and_limits_refuse(declare: Declare, tmp_path: Path) -> None:
    """Its own validation and configuration, short of loading the model: every broken rule, every limit."""
    vocabulary = load("vllm")
    with reader(declare, VLLM, tmp_path / "log") as parser:
        model = str(declare("model", VLLM).model)
        for case in broken.VLLM:
            assert refused(parser, vocabulary, model, case.options), f"vLLM takes {case.options}"
            if case.here:
                assert refused(parser, vocabulary, model, case.mended) is None
        for option in vocabulary:
            for value in behind(option):
                options = {**LIMIT_NEEDS.get(option.name, {}), option.name: value}
                assert refused(parser, vocabulary, model, options, unchecked=True), f"vLLM takes {option.name}: {value}"


def refused(
    parser: Reader, vocabulary: Vocabulary, model: str, options: Mapping[str, JsonValue], *, unchecked: bool = False
) -> str | None:
    """What vLLM says against the options; ``unchecked`` writes the words itself, for values that we refuse to render."""
    length = {} if "max_model_len" in options else {"max_model_len": 512}
    if unchecked:
        words = [word for name, value in options.items() for word in _bare(vocabulary[name], value)]
        argv = [*render_options(vocabulary, length), *words]
    else:
        argv = [*render_options(vocabulary, {**length, **options})]
    complaint = parser.ask([model, *argv], {}, configure=True).get("error")
    return None if complaint is None else str(complaint)


def _bare(option: Option, value: JsonValue) -> list[str]:
    return [option.flag] if value is True else [f"{option.flag}={value}"]


LIMIT_NEEDS: Mapping[str, Options] = {"max_loras": {"enable_lora": True}}


def behind(option: Option) -> list[float]:
    """Numbers just behind an option's limits."""
    step = 1 if option.type is Type.INT else 0.01
    outer = [limit + sign * step for limit, sign in ((option.minimum, -1), (option.maximum, 1)) if limit is not None]
    numbers = [*outer, *(limit for limit in (option.above, option.below) if limit is not None)]
    return [int(number) if option.type is Type.INT else number for number in numbers]


def test_mlx_reads_from_our_argv_what_the_options_mean(declare: Declare, tmp_path: Path) -> None:
    vocabulary = load("mlx_lm")
    with reader(declare, MLX_LM, tmp_path / "log") as parser:
        assert {option.flag for option in vocabulary} == {flag for flag in parser.dests if flag.startswith("--")}
        hold(parser, vocabulary, each=40, sets=300)
        compare(parser, vocabulary, {"model": "org/m"})


def sampled(option: Option, files: Path) -> list[JsonValue]:
    """Values that llama-server takes for an option, or those that are named in LLAMA."""
    if option.name in LLAMA:
        return [value.replace("FILES", str(files)) if isinstance(value, str) else value for value in LLAMA[option.name]]
    if option.kind is Kind.SWITCH:
        return [True, False] if option.negative else [True]
    if option.choices:
        return [option.choices[0], option.choices[-1]]
    item: list[JsonValue]
    match option.type:
        case Type.INT:
            edges = [int(edge) for edge in (option.minimum, option.maximum) if edge is not None]
            item = [*option.words, *(edges or [7]), 1]
        case Type.FLOAT:
            item = [0.5, 1]
        case Type.JSON:
            item = [{"a": {"b": [1, None, "é it's"]}}]
        case _:
            item = ["a b", "-x=é\n" if option.multiline else "-x=é"]
    if option.kind is Kind.TUPLE:
        return [[item[0]] * option.count]
    return [*item, item] if option.many else item


def taken(program: Path, argv: tuple[str, ...], folder: Path) -> str | None:
    """None when llama-server reads all the words, its own complaint otherwise."""
    environment = {**os.environ, "LLAMA_CACHE": "/nonexistent"}
    done = subprocess.run(
        [program, *argv, "--version"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
        env=environment,
        cwd=folder,  # --log-file and the like make their files at once
    )
    return (
        None if done.returncode == 0 and "version:" in done.stdout + done.stderr else (done.stderr or "no word")[:200]
    )


def test_llama_server_takes_every_option_that_we_render(declare: Declare, tmp_path: Path) -> None:
    vocabulary, program = load("llama_cpp"), declare("parser", LLAMA_CPP).executable
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    wrong = []
    runs = 0
    for option in vocabulary:
        if option.exits or option.removed:
            continue
        for value in sampled(option, tmp_path):
            runs += 1
            complaint = taken(program, render_options(vocabulary, {option.name: value}), tmp_path)
            if complaint is not None:
                wrong.append(f"{option.name}: {value!r}: {complaint}")
    assert not wrong, "\n".join(wrong)
    assert runs > 400
    for option in vocabulary:  # our limits are the server's own: what lies behind them it refuses
        for edge, step in ((option.minimum, -1), (option.maximum, 1)):
            if edge is not None and not option.removed:
                assert taken(program, (option.flag, str(int(edge) + step)), tmp_path) is not None, (
                    f"{option.name}: {edge}"
                )
    model = str(declare("model", LLAMA_CPP).model)
    for case in broken.LLAMA_CPP:  # these are seen when the model is loaded, which takes it milliseconds
        argv = render_options(vocabulary, {"model": model, "ctx_size": 256, **case.options})
        done = subprocess.run([program, *argv, "--port", "0"], capture_output=True, timeout=60, check=False)
        assert done.returncode not in (0, -9), f"llama-server takes {case.options}"
    assert taken(program, ("--no-such-flag",), tmp_path) is not None, (
        "a flag that it does not know is refused before --version"
    )
    assert taken(program, ("--ctx-size", "x"), tmp_path) is not None
