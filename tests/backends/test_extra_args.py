"""Raw arguments: read as the server reads them, refused where they would show a secret, doubted where they look like a slip."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from reconciler.backends._vocabulary import load
from tests.backends.samples import backend, check, spec


@pytest.mark.parametrize(
    ("kind", "extra", "said"),
    [
        ("vllm", ["--api-ke", "sk-abc"], "--api-key would show a secret"),
        ("vllm", ["--api_ke=sk-abc"], "--api-key would show a secret"),
        ("vllm", ["--api-key.x=sk-abc"], "--api-key would show a secret"),
        ("vllm", ["--api-key sk-abc"], "--api-key would show a secret"),
        ("vllm", ["--hf-tok=sk-abc"], "--hf-token would show a secret"),
        ("vllm", ["--hf_tok", "sk-abc"], "--hf-token would show a secret"),
        ("vllm", ["--hos=0.0.0.0"], "--host is llamactl's to give"),
        ("vllm", ["--por", "9"], "--port is llamactl's to give"),
        ("vllm", ["--ud=/tmp/x"], "--uds cannot be used"),
        ("mlx_lm", ["--por", "9"], "--port is llamactl's to give"),
        ("llama_cpp", ["--api-ke", "sk-abc"], "has no option --api-ke"),
    ],
)
def test_a_shortened_flag_is_refused_as_the_whole_one_is(kind: str, extra: list[str], said: str) -> None:
    (problem,) = check(kind, extra_args=extra)
    assert said in problem.message
    assert not problem.warning
    assert problem.path == ("extra_args", 0)
    assert "sk-abc" not in problem.message + str(problem.hint)


@pytest.mark.parametrize(
    "word", ["--see=3", "--seed", "--compilation-config.mode=3", "--compilation_conf.mode=3", "-cc=3"]
)
def test_an_option_that_is_set_twice_is_doubted_in_any_spelling(word: str) -> None:
    options: dict[str, JsonValue] = {"model": "m", "seed": 1, "compilation_config": {"mode": 3}}
    (problem,) = check("vllm", options, extra_args=[word])
    assert problem.warning
    assert "is also set as" in problem.message


@pytest.mark.parametrize(
    ("kind", "word", "said", "hint"),
    [
        ("vllm", "--gpu-memory-utilisation", "has no option", "did you mean --gpu-memory-utilization?"),
        ("vllm", "--gpu_memory_utilisation=0.5", "has no option", "did you mean --gpu-memory-utilization?"),
        ("vllm", "--task=embed", "no longer has --task", "use runner"),
        ("llama_cpp", "--mlock", "no longer has --mlock", "use load_mode: mlock"),
        ("llama_cpp", "--gpu-layer", "has no option --gpu-layer", "did you mean --gpu-layers?"),
        ("vllm", "--seed 3", "one argument", "write them as two items"),
    ],
)
def test_a_known_bad_word_is_warned_of(kind: str, word: str, said: str, hint: str) -> None:
    (problem,) = check(kind, extra_args=[word])
    assert problem.warning, "raw arguments are passed on"
    assert said in problem.message
    assert str(problem.hint).startswith(hint)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("vllm", ["--new-flag", "a b"]),
        ("vllm", ["--override-generation-config", "--x"]),
        ("vllm", ["--temperature", "-0.5"]),
        ("llama_cpp", ["--grammar", "--gpu-layer"]),
        ("llama_cpp", ["--brand-new"]),
    ],
)
def test_what_may_be_right_is_passed_on_in_silence(kind: str, extra: list[str]) -> None:
    assert check(kind, extra_args=extra) == ()


def test_a_removed_option_is_called_as_it_was_written() -> None:
    for flag, hint in (
        ("--draft-max", "spec_draft_n_max"),
        ("--draft-n", "spec_draft_n_max"),
        ("--draft-min", "spec_draft_n_min"),
    ):
        (raw,) = check("llama_cpp", extra_args=[flag, "3"])
        (option,) = check("llama_cpp", {"model": "m", flag[2:]: 3})
        for problem in (raw, option):
            assert problem.message.endswith(f"no longer has {flag}")
            assert str(problem.hint).startswith(f"use {hint}")


def test_a_flag_of_a_later_version_is_not_there_yet() -> None:
    table = {
        "backend": "vllm", "version": "0.1.0", "program": "vllm serve", "syntax": "vllm", "gone": {}, "rules": [],
        "options": [{"name": "model", "flags": ["--model"], "kind": "value", "type": "str", "positional": True}],
    }  # fmt: skip
    older = backend("vllm").informed(lambda _: table)
    said = [
        problem.message for problem in older.check(spec("vllm", {"model": "m", "seed": 1}, extra_args=["--dtype=auto"]))
    ]
    assert said == ["vllm serve 0.1.0 does not have seed yet", "vllm serve 0.1.0 does not have --dtype yet"]
    assert load("vllm").gone_flag("--seed") is None
