"""The command line: every flag of the real servers is accepted, and no value is ever taken for the model."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from reconciler.simulator import main
from reconciler.simulator.flags import KINDS, SIMULATOR_FLAGS, Options, UsageError, parse


def vllm(*argv: str, **environ: str) -> Options:
    return parse("vllm", argv, environ=environ)


@pytest.mark.parametrize(
    ("argv", "model"),
    [
        (["serve", "org/model", "--port", "1"], "org/model"),
        (["serve", "--model", "org/model"], "org/model"),
        (["serve", "--model=org/model", "--seed", "-1"], "org/model"),
        (["org/model"], "org/model"),
        (["serve", "--dtype", "half", "--model", "org/model"], "org/model"),
        (["serve", "--port", "1", "org/model"], "org/model"),
        (["serve", "org/model", "--lora-modules", "a=b", "c=d", "serve"], "org/model"),
        (["--load-seconds", "2", "serve", "org/model"], "org/model"),
        (["--enforce-eager", "--model", "org/model", "--hf-overrides", '{"a": 1}'], "org/model"),
        (["serve", "--tokenizer", "not/the-model"], "Qwen/Qwen3-0.6B"),
        (["serve", "serve"], "serve"),
    ],
)
def test_the_model_is_found_and_no_value_of_another_flag_is_mistaken_for_it(argv: list[str], model: str) -> None:
    assert vllm(*argv).model == model


def test_dashes_underscores_and_equals_signs_mean_the_same() -> None:
    spellings = [
        vllm("serve", "m", "--served-model-name", "a", "b", "--load-seconds", "1.5"),
        vllm("serve", "m", "--served_model_name", "a", "b", "--load_seconds=1.5"),
        vllm("serve", "m", "--load-seconds=1.5", '--served-model-name=["a", "b"]'),
    ]
    assert spellings[0].names == ("a", "b")
    assert spellings[0].load_seconds == 1.5
    assert spellings[1:] == spellings[:1] * 2


def test_the_served_name_is_the_model_until_it_is_given_another() -> None:
    assert vllm("serve", "org/model").names == ("org/model",)
    assert parse("llama_cpp", ["-m", "/models/x.gguf", "-a", "x, y"], environ={}).names == ("x", "y")
    assert parse("llama_cpp", ["-hf", "org/repo:Q4"], environ={}).names == ("org/repo:Q4",)
    assert parse("mlx_lm", ["--model", "org/mlx"], environ={}).names == ("org/mlx",)


def test_a_key_comes_from_the_flag_or_else_from_the_servers_own_variable() -> None:
    assert vllm("serve", "m", VLLM_API_KEY="v", LLAMA_API_KEY="l").api_keys == ("v",)
    assert vllm("serve", "m", "--api-key", "a", "b", VLLM_API_KEY="v").api_keys == ("a", "b")
    assert parse("llama_cpp", ["-m", "x"], environ={"LLAMA_API_KEY": "l,k"}).api_keys == ("l", "k")
    assert parse("mlx_lm", ["--model", "x"], environ={"LLAMA_API_KEY": "l", "VLLM_API_KEY": "v"}).api_keys == ()


def test_a_key_is_not_shown_where_options_are_printed() -> None:
    assert "hush" not in repr(vllm("serve", "m", VLLM_API_KEY="hush"))


def test_sleep_routes_need_both_the_flag_and_the_variable() -> None:
    assert vllm("serve", "m", "--enable-sleep-mode", VLLM_SERVER_DEV_MODE="1").sleep_routes
    assert not vllm("serve", "m", "--enable-sleep-mode").sleep_routes
    assert not vllm("serve", "m", VLLM_SERVER_DEV_MODE="1").sleep_routes
    assert not vllm(
        "serve", "m", "--enable-sleep-mode", "--no-enable-sleep-mode", VLLM_SERVER_DEV_MODE="1"
    ).sleep_routes


@pytest.mark.parametrize(
    ("argv", "wrong"),
    [
        (["--port", "eighty"], "'eighty' is not a port"),
        (["--port", "65536"], "'65536' is not a port"),
        (["--port"], "--port: expected one argument"),
        (["--load-seconds", "soon"], "--load-seconds: invalid float value: 'soon'"),
        (["--load-seconds", "nan"], "--load-seconds: invalid float value: 'nan'"),
        (["--children", "-1"], "--children: -1 is out of range"),
        (["--exit-code", "256"], "--exit-code: 256 is out of range"),
        (["--fail-start=perhaps"], "--fail-start: invalid boolean value: 'perhaps'"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(argv: list[str], wrong: str) -> None:
    with pytest.raises(UsageError, match=re.escape(wrong)) as caught:
        vllm("serve", "m", *argv)
    assert caught.value.code == 2


def test_every_fault_flag_is_read_and_has_its_default() -> None:
    defaults = vllm("serve", "m")
    for flag in SIMULATOR_FLAGS:
        name = flag.name.replace("-", "_")
        assert getattr(defaults, name) == flag.default
        changed = vllm("serve", "m", f"--{flag.name}", *([] if flag.type == "bool" else ["7"]))
        assert getattr(changed, name) == {"bool": True, "str": "7", "int": 7, "float": 7.0}[flag.type]


def test_a_pair_that_the_real_vllm_refuses_is_a_doubt() -> None:
    assert "try adding --enable-log-requests" in vllm("serve", "m", "--enable-log-outputs").doubts[0]
    assert vllm("serve", "m", "--enable-log-outputs", "--enable-log-requests").doubts == ()
    assert vllm("serve", "m", "--enable_log_outputs", "--no-enable-log-outputs").doubts == ()


@pytest.mark.parametrize("argv", [[], ["ollama"], ["vllm", "serve", "m", "--port", "x"]])
def test_a_command_line_that_cannot_be_read_is_exit_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_answer_and_end(kind: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([kind, flag]) == 0
    printed = capsys.readouterr().out
    assert printed
    if flag == "--help":
        assert all(f"--{option.name}" in printed for option in SIMULATOR_FLAGS)


def test_reading_the_flags_imports_no_http_server() -> None:
    code = "import sys, reconciler.simulator; sys.exit('aiohttp' in sys.modules or 'asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
